// Steps of a neural cellular automaton on the CPU, forward and backward. nca_fast/reference.py is the definition.
//
//     y = filters * x        h = relu(W1 y + b1), ...        u = W2 h + b2        x' = x + m u
//
// Only firing cells (m = 1) enter the network. packer.h packs what they perceive (by filters.h and, where the rule asks for
// it, the largest value of each channel around), and every CHUNK of packed cells runs through the layers of network.h as
// register-blocked matrix products. The backward pass packs the same cells again, recomputes their hidden units, and
// returns the gradient of the perception to the canvas by the transposed filters. Where the rule has an alive mask,
// alive.h says which cells need not be computed. A chunk holds cells of one sample, so samples may have networks of their
// own. Weight gradients are one partial sum per share of the rows and rule, added in the order of the shares: same inputs
// and same thread count give the same bits.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <optional>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "alive.h"
#include "backward.h"
#include "forward.h"

#ifndef NCA_FAST_NAMESPACE
#define NCA_FAST_NAMESPACE nca_fast_cpu
#endif

namespace nca_fast {
namespace {

// f(share, first row, end row) in parallel. The cut depends on the sizes and the thread count alone.
template <class Visit>
void for_shares(const Step& s, int64_t shares, const Visit& visit) {
  at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i, i * s.B * s.H / shares, (i + 1) * s.B * s.H / shares);
  });
}

int64_t share_count(const Step& s) {
  const int64_t enough = std::max<int64_t>(1, s.B * s.H * s.W / 512);  // fewer cells are not worth a thread
  return std::min({int64_t(at::get_num_threads()), enough, s.B * s.H});
}

// Asks for large pages before a tensor is first written: fewer page faults, and rows of many channels lie in many pages.
void prefer_large_pages(const at::Tensor& t) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr()), end = begin + t.nbytes();
  const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may be refused
#endif
}

// The weights of every rule, params [rules][parameters], in the order in which the network reads them.
at::Tensor pack(const at::Tensor& params, at::IntArrayRef shapes) {
  const int64_t rules = params.dim() == 2 ? params.size(0) : 1, size = packed_size(shapes), count = parameter_count(shapes);
  const at::Tensor networks = at::empty({rules, size}, params.options());
  at::parallel_for(0, rules, 1, [&](int64_t begin, int64_t end) {
    for (int64_t rule = begin; rule < end; ++rule) {
      const float* from = params.data_ptr<float>() + rule * count;
      float* to = networks.data_ptr<float>() + rule * size;
      for (size_t i = 0; i < shapes.size(); i += 3) {
        const int64_t out = shapes[i], in = shapes[i + 1];
        Layer::pack(from, shapes[i + 2] ? from + out * in : nullptr, out, in, to);
        from += out * (in + shapes[i + 2]), to += Layer::size(out, in);
      }
    }
  });
  return networks;
}

// f(first row, end row) in parallel, for all rows of all samples.
template <class Visit>
void for_rows(const Step& s, const Visit& visit) {
  for_shares(s, share_count(s), [&](int64_t, int64_t begin, int64_t end) { visit(begin, end); });
}

// f(sample) for all samples, in parallel.
template <class Visit>
void for_all_samples(const Step& s, const Visit& visit) {
  at::parallel_for(0, s.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) visit(sample);
  });
}

// One step of all samples, each in shares: `to` from `from`.
void step_in_shares(const Step& s, Alive* alive, const float* from, float* to) {
  if (alive) for_all_samples(s, [&](int64_t sample) { alive->before_step(from, sample, false); });
  for_rows(s, [&](int64_t begin, int64_t end) { Forward(s, std::min(s.W, TILE), alive ? &alive->cells : nullptr).rows(from, to, begin, end); });
  if (!alive) return;
  for_all_samples(s, [&](int64_t sample) { alive->after_step(to, sample); });
  for_rows(s, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) alive->apply_mask(to, row / s.H, row % s.H);
  });
}

// The same for a single sample and by a single thread.
void step_sample(const Step& s, Forward& forward, Alive* alive, const float* from, float* to, int64_t sample) {
  if (alive) alive->before_step(from, sample, false);
  forward.rows(from, to, sample * s.H, (sample + 1) * s.H);
  if (!alive) return;
  alive->after_step(to, sample);
  for (int64_t row = 0; row < s.H; ++row) alive->apply_mask(to, sample, row);
}

// states[j] = x after (j + 1) * every steps.
void advance(const at::Tensor& x, const at::Tensor& networks, const at::Tensor& fire, const at::Tensor& stencils, at::IntArrayRef layers,
             int64_t frozen, bool circular, int64_t window, int64_t alive_channel, double alive_threshold, int64_t seed, int64_t origin_row,
             int64_t origin_column, int64_t first_sample, int64_t canvas_height, int64_t first_step, at::Tensor states, int64_t every) {
  Step s(x, networks, fire, {stencils, layers, frozen, circular, window, alive_channel, alive_threshold},
         {seed, origin_row, origin_column, first_sample, canvas_height});
  const int64_t size = x.numel(), steps = states.size(0) * every;
  const at::Tensor scratch = every > 1 ? at::empty_like(x) : at::Tensor();
  prefer_large_pages(states);
  if (scratch.defined()) prefer_large_pages(scratch);
  const auto each_step = [&](Step& own, const auto& visit) {  // visit(from, to) in the order of the steps
    const float* from = x.data_ptr<float>();
    for (int64_t n = 0; n < steps; ++n) {
      own.step = uint32_t(first_step + n);
      float* state = states.data_ptr<float>() + n / every * size;
      float* to = (every - 1 - n % every) % 2 ? scratch.data_ptr<float>() : state;  // the last of `every` lands in states
      visit(from, to);
      from = to;
    }
  };
  const auto mask = [&](const Step& own) {
    std::optional<Alive> alive;
    if (alive_channel >= 0) alive.emplace(own);
    return alive;
  };
  const int64_t shares = share_count(s);
  if (s.B % shares == 0) {  // shares of whole samples need not wait for each other, and a small sample stays in cache
    for_shares(s, shares, [&](int64_t, int64_t begin, int64_t end) {
      Step own = s;
      std::optional<Alive> alive = mask(own);
      Forward forward(own, std::min(s.W, TILE), alive ? &alive->cells : nullptr);
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample)
        each_step(own, [&](const float* from, float* to) { step_sample(own, forward, alive ? &*alive : nullptr, from, to, sample); });
    });
  } else {
    std::optional<Alive> alive = mask(s);
    each_step(s, [&](const float* from, float* to) { step_in_shares(s, alive ? &*alive : nullptr, from, to); });
  }
}

// grad_x = gradient of x when one step is taken from x and `grad` is that of its result; grad_params is added to.
void backward(const at::Tensor& x, const at::Tensor& grad, const at::Tensor& networks, const at::Tensor& fire, const at::Tensor& stencils,
             at::IntArrayRef layers, int64_t frozen, bool circular, int64_t window, int64_t alive_channel, double alive_threshold, int64_t seed,
             int64_t origin_row, int64_t origin_column, int64_t first_sample, int64_t canvas_height, int64_t step, at::Tensor grad_x, at::Tensor grad_params) {
  Step s(x, networks, fire, {stencils, layers, frozen, circular, window, alive_channel, alive_threshold},
         {seed, origin_row, origin_column, first_sample, canvas_height});
  s.step = uint32_t(step);
  float* out = grad_x.data_ptr<float>();
  const int64_t shares = share_count(s), columns = std::min(s.W, TILE);
  std::optional<Alive> alive;
  if (alive_channel >= 0) alive.emplace(s);
  const auto update = [&](int64_t begin, int64_t end) {  // grad_x is not written yet: room for a state
    Forward(s, columns, &alive->cells).rows(x.data_ptr<float>(), out, begin, end);
  };
  const bool whole = s.B % shares == 0;  // as in `advance`
  if (alive && !whole) {
    for_all_samples(s, [&](int64_t sample) { alive->before_step(x.data_ptr<float>(), sample, true); });
    for_rows(s, update);
    for_all_samples(s, [&](int64_t sample) { alive->after_step(out, sample); });
  }
  double* const sums = grad_params.data_ptr<double>();
  std::vector<std::unique_ptr<Partial>> partials(shares);
  for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
    if (alive && whole) {
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample) alive->before_step(x.data_ptr<float>(), sample, true);
      update(begin, end);
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample) alive->after_step(out, sample);
    }
    partials[i] = std::make_unique<Partial>(s, begin, end, sums);
    const int64_t group_rows = std::clamp<int64_t>(GROUP / columns, 1, end - begin);
    Backward(s, *partials[i], columns, group_rows, alive ? &*alive : nullptr).rows(x.data_ptr<float>(), grad.data_ptr<float>(), out, begin, end);
  });
  for (const auto& partial : partials) {
    for (const auto& row : partial->outside)
      for (int64_t c = 0; c < s.C; ++c) {
        float* to = out + (row.sample * s.C + c) * s.plane() + row.row * s.W;
        const float* from = *row.grad + c * s.W;
        for (int64_t i = 0; i < s.W; ++i) to[i] += from[i];
      }
    for (const auto& total : partial->totals)
      for (int64_t i = 0; i < s.parameters; ++i) sums[total.rule * s.parameters + i] += total.sums[i];
  }
}

}  // namespace
}  // namespace nca_fast

TORCH_LIBRARY(NCA_FAST_NAMESPACE, m) {
  m.def("pack(Tensor params, int[] layers) -> Tensor", &nca_fast::pack);
  m.def("advance(Tensor x, Tensor networks, Tensor fire, Tensor stencils, int[] layers, int frozen, bool circular, int window, "
        "int alive_channel, float alive_threshold, int seed, int origin_row, int origin_column, int first_sample, int canvas_height, int first_step, "
        "Tensor(a!) states, int every) -> ()", &nca_fast::advance);
  m.def("backward(Tensor x, Tensor grad, Tensor networks, Tensor fire, Tensor stencils, int[] layers, int frozen, bool circular, int window, "
        "int alive_channel, float alive_threshold, int seed, int origin_row, int origin_column, int first_sample, int canvas_height, int step, "
        "Tensor(a!) grad_x, Tensor(b!) grad_params) -> ()", &nca_fast::backward);
}
