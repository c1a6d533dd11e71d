// Steps of a neural cellular automaton on the CPU, forward and backward. nca_fast/reference.py is the definition.
//
//     y = filters * x        h = relu(W1 y + b1), ...        u = W2 h + b2        x' = x + m u
//
// Only firing cells (m = 1) enter the network. packer.h packs what they perceive (by filters.h and, where the rule asks for
// it, the largest value of each channel around), and every CHUNK of packed cells runs through the layers of network.h as
// register-blocked matrix products. The backward pass packs the same cells again, recomputes their hidden units, and
// returns the gradient of the perception to the canvas by the transposed filters. Where the rule has an alive mask,
// alive.h says which cells need not be computed. What else a rule may ask for: activations.h has its functions; noise, and who
// fires where channels fire each for itself, are packed beside the perception; frames turn what is packed; a clamp is applied where rows are written,
// and opens gates in the backward pass. A chunk holds cells of one sample, so samples may have networks of their
// own. Weight gradients are one partial sum per share of the rows and rule, added in the order of the shares: same inputs
// and same thread count give the same bits.
#include <exception>
#include <optional>

#include "advance.h"
#include "backward.h"
#include "cells.h"
#include "interface.h"

namespace nca_fast {
namespace {

// The weights of every rule, params [rules][parameters], in the order in which the network reads them.
void pack(const Rule& rule, const float* params, int64_t rules, float* networks) {
  const std::vector<float> seen = channels_seen(rule, params, rules);
  std::vector<int64_t> columns;  // that are not all zero
  for (int64_t k = 0; k < rule.shapes[1]; ++k)
    if (seen[k % seen.size()] != 0) columns.push_back(k);
  parallel_for(rules, [&](int64_t n) {
    const float* from = params + n * parameter_count(rule);
    float* to = networks + n * packed_size(rule);
    const int64_t channels = rule.learned ? tap_count(rule) / TAPS / rule.learned : 0;
    for (int64_t c = 0; c < channels; ++c)  // [learned][channels] -> [channels][learned]
      for (int64_t f = 0; f < rule.learned; ++f, to += TAPS) std::copy_n(from + (f * channels + c) * TAPS, TAPS, to);
    from += tap_count(rule);
    const float* const first = to;
    for_layers(rule, [&](int64_t out, int64_t in, int64_t has_bias) {
      const float* const bias = has_bias ? from + out * in : nullptr;
      if (to == first && int64_t(columns.size()) < in) {
        std::vector<float> weight;
        for (int64_t o = 0; o < out; ++o)
          for (const int64_t k : columns) weight.push_back(from[o * in + k]);
        Layer::pack(weight.data(), bias, out, in, columns.size(), to);
      } else {
        Layer::pack(from, bias, out, in, in, to);
      }
      from += out * (in + has_bias), to += Layer::size(out, in);
    });
    std::copy(seen.begin(), seen.end(), to);
  });
}

// What a share of the rows works with in all steps.
struct BackwardShare {
  // `shared`: the mask that is everybody's, or null: where the rule has one, it is this share's own.
  BackwardShare(const Step& step, Alive* shared, int64_t begin, int64_t end, double* grad_params, float* grad_frames)
      : begin(begin), end(end), s(step), columns(std::min(s.W, s.tile)), partial(s, begin, end, grad_params) {
    if (!shared && s.alive_channel >= 0) own.emplace(s);
    alive = own ? &*own : shared;
    backward = std::make_unique<Backward>(s, partial, columns, std::clamp<int64_t>(group_cells(s.inputs()) / columns, 1, end - begin), alive, grad_frames);
    if (alive && alive->looks_after()) chain = std::make_unique<Chain>(s, 1, columns, &alive->compute);
  }

  void turn_to(int64_t step) { s.step = uint32_t(step); }

  // The new state of the cells on which the mask hangs goes to grad_x, which is not written yet: room for a state.
  void update(const float* x, float* grad_x) {
    if (chain) chain->rows(s.step, x, {grad_x}, begin, end);
  }

  // A step of a share of whole samples, which waits for no other.
  void back(const float* x, const float* grad, float* grad_x) {
    for (int64_t sample = begin / s.H; alive && sample < end / s.H; ++sample) alive->before_step(x, sample, true);
    update(x, grad_x);
    for (int64_t sample = begin / s.H; alive && sample < end / s.H; ++sample) alive->after_step(grad_x, sample);
    backward->rows(x, grad, grad_x, begin, end);
  }

  const int64_t begin, end;
  Step s;
  const int64_t columns;
  std::optional<Alive> own;
  Alive* alive;
  Partial partial;
  std::unique_ptr<Backward> backward;
  std::unique_ptr<Chain> chain;
};

// The gradient of states[0], from `grad`, that of the state after all `count` steps, each of which is taken from one of the
// states. Two buffers take turns: it ends in `grad` if their number is even, and in `other` if not. grad_params is added to,
// and where there are frames grad_frames, [B][2][H][W]: the gradients of the logarithm of their scale and of their angle.
void backward(const Rule& rule, const Canvas& canvas, int64_t first_step, const float* states, int64_t count, float* grad, float* other, double* grad_params,
              float* grad_frames) {
  Step s(rule, canvas);
  const int64_t shares = share_count(s), size = s.B * s.C * s.plane();
  const bool whole = s.B % shares == 0;  // as in `advance`
  std::optional<Alive> alive;
  if (rule.alive_channel >= 0 && !whole) alive.emplace(s);
  std::vector<std::unique_ptr<BackwardShare>> work(shares);
  const auto share = [&](int64_t i, int64_t begin, int64_t end, int64_t step) -> BackwardShare& {  // on the share's own thread
    if (!work[i]) work[i] = std::make_unique<BackwardShare>(s, alive ? &*alive : nullptr, begin, end, grad_params, grad_frames);
    work[i]->turn_to(step);
    return *work[i];
  };
  if (whole) for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
      float *from = grad, *to = other;
      for (int64_t n = count - 1; n >= 0; --n, std::swap(from, to)) share(i, begin, end, first_step + n).back(states + n * size, from, to);
    });
  const bool updates = alive && alive->looks_after();
  const auto update = [&](int64_t i, int64_t begin, int64_t end, int64_t n, float* to) { share(i, begin, end, first_step + n).update(states + n * size, to); };
  const auto look = [&](int64_t n, int64_t sample) { alive->before_step(states + n * size, sample, true); };
  s.step = uint32_t(first_step + count - 1);
  if (alive && count) for_all_samples(s, [&](int64_t sample) { look(count - 1, sample); });
  if (updates && count) for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) { update(i, begin, end, count - 1, other); });
  float *from = grad, *to = other;
  for (int64_t n = count - 1; !whole && n >= 0; --n, std::swap(from, to)) {
    if (alive) {
      s.step = uint32_t(first_step + n - 1);
      for_all_samples(s, [&](int64_t sample) {
        alive->after_step(to, sample);
        if (n > 0) look(n - 1, sample);
      });
    }
    // A share's rows of `from` are read by itself alone, and hold what it updates for the next step back once they are.
    for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
      share(i, begin, end, first_step + n).backward->rows(states + n * size, from, to, begin, end);
      if (updates && n > 0) update(i, begin, end, n - 1, from);
    });
    for (const auto& one : work) one->partial.add_outside(to);
  }
  for (const auto& one : work) one->partial.add_totals();
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

NCA_FAST_EXPORT const char* nca_fast_steps_at_once(const Rule* rule, const Canvas* canvas, int64_t* steps) {
  return guarded([&] { *steps = steps_at_once(*rule, *canvas); });
}

NCA_FAST_EXPORT const char* nca_fast_advance(const Rule* rule, const Canvas* canvas, int64_t first_step, const float* x, float* states, int64_t count,
                                             int64_t every, float* scratch) {
  return guarded([&] { advance(*rule, *canvas, first_step, x, states, count, every, scratch); });
}

NCA_FAST_EXPORT const char* nca_fast_backward(const Rule* rule, const Canvas* canvas, int64_t first_step, const float* states, int64_t count, float* grad,
                                              float* other, double* grad_params, float* grad_frames) {
  return guarded([&] { backward(*rule, *canvas, first_step, states, count, grad, other, grad_params, grad_frames); });
}

NCA_FAST_EXPORT const char* nca_fast_fire_mask(const Draw* draw, int64_t samples, int64_t lanes, int64_t first, int64_t rows, int64_t columns, int64_t limit,
                                               uint8_t* fires) {
  const Draws draws{uint64_t(draw->seed), draw->row, draw->height, uint32_t(draw->column), uint32_t(draw->sample), columns, draw->shared, uint32_t(draw->step)};
  return guarded([&] { fire_mask(draws, samples, lanes, first, rows, limit, fires); });
}

NCA_FAST_EXPORT const char* nca_fast_alive(const float* alpha, int64_t apart, int64_t samples, int64_t rows, int64_t columns, double threshold,
                                           int64_t circular, uint8_t* living, int64_t* known) {
  return guarded([&] { *known = alive(alpha, apart, samples, rows, columns, float(threshold), circular, living); });
}
