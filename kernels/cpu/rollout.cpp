// Steps of a neural cellular automaton on the CPU, forward and backward. nca_fast/reference.py is the definition.
//
//     y = filters * x        h = relu(W1 y + b1), ...        u = W2 h + b2        x' = x + m u
//
// Only firing cells (m = 1) enter the network. packer.h packs what they perceive (by filters.h and, where the rule asks for
// it, the largest value of each channel around), and every CHUNK of packed cells runs through the layers of network.h as
// register-blocked matrix products. The backward pass packs the same cells again, recomputes their hidden units, and
// returns the gradient of the perception to the canvas by the transposed filters. Where the rule has an alive mask,
// alive.h says which cells need not be computed. What else a rule may ask for: activations.h has its functions; noise, and who
// fires where channels fire each for itself, are packed beside the perception; a clamp is applied where rows are written,
// and opens gates in the backward pass. A chunk holds cells of one sample, so samples may have networks of their
// own. Weight gradients are one partial sum per share of the rows and rule, added in the order of the shares: same inputs
// and same thread count give the same bits.
#include <exception>
#include <optional>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "alive.h"
#include "backward.h"
#include "forward.h"
#include "interface.h"
#include "threads.h"

namespace nca_fast {
namespace {

// f(share, first row, end row) in parallel. The cut depends on the sizes and the thread count alone.
template <class Visit>
void for_shares(const Step& s, int64_t shares, const Visit& visit) {
  parallel_for(shares, [&](int64_t i) { visit(i, i * s.B * s.H / shares, (i + 1) * s.B * s.H / shares); });
}

int64_t share_count(const Step& s) {
  const int64_t enough = std::max<int64_t>(1, s.B * s.H * s.W / 512);  // fewer cells are not worth a thread
  return std::min({thread_count(), enough, s.B * s.H});
}

// Asks for large pages before memory is first written: fewer page faults, and rows of many channels lie in many pages.
void prefer_large_pages(const float* memory, int64_t size) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory), end = begin + size * sizeof(float);
  const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may be refused
#endif
}

// The weights of every rule, params [rules][parameters], in the order in which the network reads them.
void pack(const Rule& rule, const float* params, int64_t rules, float* networks) {
  parallel_for(rules, [&](int64_t n) {
    const float* from = params + n * parameter_count(rule);
    float* to = networks + n * packed_size(rule);
    for_layers(rule, [&](int64_t out, int64_t in, int64_t has_bias) {
      Layer::pack(from, has_bias ? from + out * in : nullptr, out, in, to);
      from += out * (in + has_bias), to += Layer::size(out, in);
    });
  });
}

// f(first row, end row) in parallel, for all rows of all samples.
template <class Visit>
void for_rows(const Step& s, const Visit& visit) {
  for_shares(s, share_count(s), [&](int64_t, int64_t begin, int64_t end) { visit(begin, end); });
}

// f(sample) for all samples, in parallel.
template <class Visit>
void for_all_samples(const Step& s, const Visit& visit) {
  parallel_for(s.B, visit);
}

// One step of all samples, each in shares: `to` from `from`.
void step_in_shares(const Step& s, Alive* alive, const float* from, float* to) {
  if (alive) for_all_samples(s, [&](int64_t sample) { alive->before_step(from, sample, false); });
  for_rows(s, [&](int64_t begin, int64_t end) { Forward(s, std::min(s.W, s.tile), alive ? &alive->cells : nullptr).rows(from, to, begin, end); });
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

// states[j] = x after (j + 1) * every steps, for `count` states; scratch is another one, null when every is 1.
void advance(const Rule& rule, const Canvas& canvas, int64_t first_step, const float* x, float* states, int64_t count, int64_t every, float* scratch) {
  Step s(rule, canvas);
  const int64_t size = s.B * s.C * s.plane(), steps = count * every;
  prefer_large_pages(states, count * size);
  if (scratch) prefer_large_pages(scratch, size);
  const auto each_step = [&](Step& own, const auto& visit) {  // visit(from, to) in the order of the steps
    const float* from = x;
    for (int64_t n = 0; n < steps; ++n) {
      own.step = uint32_t(first_step + n);
      float* state = states + n / every * size;
      float* to = (every - 1 - n % every) % 2 ? scratch : state;  // the last of `every` lands in states
      visit(from, to);
      from = to;
    }
  };
  const auto mask = [&](const Step& own) {
    std::optional<Alive> alive;
    if (rule.alive_channel >= 0) alive.emplace(own);
    return alive;
  };
  const int64_t shares = share_count(s);
  if (s.B % shares == 0) {  // shares of whole samples need not wait for each other, and a small sample stays in cache
    for_shares(s, shares, [&](int64_t, int64_t begin, int64_t end) {
      Step own = s;
      std::optional<Alive> alive = mask(own);
      Forward forward(own, std::min(s.W, s.tile), alive ? &alive->cells : nullptr);
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample)
        each_step(own, [&](const float* from, float* to) { step_sample(own, forward, alive ? &*alive : nullptr, from, to, sample); });
    });
  } else {
    std::optional<Alive> alive = mask(s);
    each_step(s, [&](const float* from, float* to) { step_in_shares(s, alive ? &*alive : nullptr, from, to); });
  }
}

// grad_x = gradient of x when one step is taken from x and `grad` is that of its result; grad_params is added to.
void backward(const Rule& rule, const Canvas& canvas, int64_t step, const float* x, const float* grad, float* grad_x, double* grad_params) {
  Step s(rule, canvas);
  s.step = uint32_t(step);
  const int64_t shares = share_count(s), columns = std::min(s.W, s.tile);
  std::optional<Alive> alive;
  if (rule.alive_channel >= 0) alive.emplace(s);
  grad_params += s.first_network() * s.parameters;
  const auto update = [&](int64_t begin, int64_t end) {  // grad_x is not written yet: room for a state
    Forward(s, columns, &alive->cells).rows(x, grad_x, begin, end);
  };
  const bool whole = s.B % shares == 0;  // as in `advance`
  if (alive && !whole) {
    for_all_samples(s, [&](int64_t sample) { alive->before_step(x, sample, true); });
    if (alive->looks_after()) for_rows(s, update);
    for_all_samples(s, [&](int64_t sample) { alive->after_step(grad_x, sample); });
  }
  std::vector<std::unique_ptr<Partial>> partials(shares);
  for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
    if (alive && whole) {
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample) alive->before_step(x, sample, true);
      if (alive->looks_after()) update(begin, end);
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample) alive->after_step(grad_x, sample);
    }
    partials[i] = std::make_unique<Partial>(s, begin, end, grad_params);
    const int64_t group_rows = std::clamp<int64_t>(GROUP / columns, 1, end - begin);
    Backward(s, *partials[i], columns, group_rows, alive ? &*alive : nullptr).rows(x, grad, grad_x, begin, end);
  });
  for (const auto& partial : partials) {
    for (const auto& row : partial->outside)
      for (int64_t c = 0; c < s.C; ++c) {
        float* to = grad_x + (row.sample * s.C + c) * s.plane() + row.row * s.W;
        const float* from = *row.grad + c * s.W;
        for (int64_t i = 0; i < s.W; ++i) to[i] += from[i];
      }
    for (const auto& total : partial->totals)
      for (int64_t i = 0; i < s.parameters; ++i) grad_params[total.rule * s.parameters + i] += total.sums[i];
  }
}

// Runs f and gives null, or what it threw, in words that stay until this thread's next call.
template <class Function>
const char* guarded(const Function& f) {
  static thread_local std::string message;
  try {
    f();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace
}  // namespace nca_fast

#define NCA_FAST_EXPORT extern "C" __attribute__((visibility("default")))
using namespace nca_fast;

#ifndef NCA_FAST_ATEN
NCA_FAST_EXPORT void nca_fast_threads(decltype(Threads::parallel_for) parallel_for, decltype(Threads::count) count) { threads = {parallel_for, count}; }
#endif

NCA_FAST_EXPORT int64_t nca_fast_packed_size(const Rule* rule) { return packed_size(*rule); }

NCA_FAST_EXPORT const char* nca_fast_pack(const Rule* rule, const float* params, int64_t rules, float* networks) {
  return guarded([&] { pack(*rule, params, rules, networks); });
}

NCA_FAST_EXPORT const char* nca_fast_advance(const Rule* rule, const Canvas* canvas, int64_t first_step, const float* x, float* states, int64_t count,
                                             int64_t every, float* scratch) {
  return guarded([&] { advance(*rule, *canvas, first_step, x, states, count, every, scratch); });
}

NCA_FAST_EXPORT const char* nca_fast_backward(const Rule* rule, const Canvas* canvas, int64_t step, const float* x, const float* grad, float* grad_x,
                                              double* grad_params) {
  return guarded([&] { backward(*rule, *canvas, step, x, grad, grad_x, grad_params); });
}
