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

constexpr int64_t CHAIN = 4;             // the most steps of a chain
constexpr int64_t CHAIN_BYTES = 1 << 19;  // of the rows that its stages keep, so that they stay in L2

// How many steps the shares take at once, and the columns of their tiles.
struct Plan { int64_t steps, columns; };

Plan planned(const Step& s, int64_t shares, int64_t steps, bool has_alive_mask) {
  const Plan alone{1, std::min(s.W, s.tile)};
  if (has_alive_mask || (s.padding != Padding::circular && s.padding != Padding::zero)) return alone;  // a stage would need more than the rows around
  const int64_t rows = s.B * s.H / shares;
  const int64_t most = std::min({CHAIN, steps, 1 + rows / (32 * std::max(s.reach, 1))});  // what is computed twice stays small
  if (most == 1) return alone;
  const int64_t column_bytes = most * (2 * s.reach + 3) * s.C * int64_t(sizeof(float));
  const int64_t columns = std::max<int64_t>(CHAIN_BYTES / column_bytes / SEGMENT * SEGMENT, SEGMENT);
  return {most, s.W <= columns + columns / 2 ? s.W : columns};
}

// Steps that follow each other, and where each of their states goes, or null.
struct Group { uint32_t first; const float* from; std::vector<float*> to; };

// Cuts the steps of a call into groups of at most `most`; see `advance`.
std::vector<Group> grouped(int64_t first_step, const float* x, float* states, int64_t count, int64_t every, float* scratch, int64_t size, int64_t most) {
  std::vector<Group> groups;
  const float* from = x;
  const auto add = [&](int64_t begin, std::vector<float*> to) {
    groups.push_back({uint32_t(first_step + begin), from, std::move(to)});
    from = groups.back().to.back();
  };
  for (int64_t j = 0; every == 1 && j < count; j += most) {
    std::vector<float*> to;
    for (int64_t i = j; i < std::min(count, j + most); ++i) to.push_back(states + i * size);
    add(j, to);
  }
  for (int64_t j = 0; every > 1 && j < count; ++j) {
    float* const state = states + j * size;
    int64_t parts = (every + most - 1) / most;
    if (from == state) parts += parts % 2;  // the first of them must not write where it reads
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = i * every / parts, end = (i + 1) * every / parts;
      std::vector<float*> to(end - begin);
      to.back() = (parts - 1 - i) % 2 ? scratch : state;
      add(j * every + begin, to);
    }
  }
  return groups;
}

// Rows begin to end of all samples' rows take the steps of a group; where there is an alive mask, it is up to the caller.
void take(std::unique_ptr<Chain>& chain, const Step& s, Plan plan, const Bits* cells, const Group& group, int64_t begin, int64_t end) {
  if (!chain) chain = std::make_unique<Chain>(s, plan.steps, plan.columns, cells);
  chain->rows(group.first, group.from, group.to, begin, end);
}

// How many steps of a call need no memory for another state.
int64_t steps_at_once(const Rule& rule, const Canvas& canvas) {
  const Step s(rule, canvas);
  return planned(s, share_count(s), CHAIN, rule.alive_channel >= 0).steps;
}

// states[j] = x after (j + 1) * every steps, for `count` states; scratch is another one, which may be null where x is not
// states[0] and `every` is at most `steps_at_once`. Where x is states[0], every is even.
void advance(const Rule& rule, const Canvas& canvas, int64_t first_step, const float* x, float* states, int64_t count, int64_t every, float* scratch) {
  const Step s(rule, canvas);
  const int64_t size = s.B * s.C * s.plane(), shares = share_count(s);
  prefer_large_pages(states, count * size);
  if (scratch) prefer_large_pages(scratch, size);
  const bool has_mask = rule.alive_channel >= 0;
  const Plan plan = planned(s, shares, count * every, has_mask);
  const std::vector<Group> groups = grouped(first_step, x, states, count, every, scratch, size, plan.steps);
  std::vector<std::unique_ptr<Chain>> chains(shares);
  if (s.B % shares == 0) {  // shares of whole samples need not wait for each other, and a small sample stays in cache
    for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) {
      Step own = s;
      std::optional<Alive> alive;
      if (has_mask) alive.emplace(own);
      for (int64_t sample = begin / s.H; sample < end / s.H; ++sample)
        for (const Group& group : groups) {
          own.step = group.first;
          if (alive) alive->before_step(group.from, sample, false);
          take(chains[i], s, plan, alive ? &alive->cells : nullptr, group, sample * s.H, (sample + 1) * s.H);
          if (!alive) continue;
          alive->after_step(group.to.back(), sample);
          for (int64_t row = 0; row < s.H; ++row) alive->apply_mask(group.to.back(), sample, row);
        }
    });
    return;
  }
  Step own = s;
  std::optional<Alive> alive;
  if (has_mask) alive.emplace(own);
  for (const Group& group : groups) {
    own.step = group.first;
    if (alive) for_all_samples(s, [&](int64_t sample) { alive->before_step(group.from, sample, false); });
    for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) { take(chains[i], s, plan, alive ? &alive->cells : nullptr, group, begin, end); });
    if (!alive) continue;
    for_all_samples(s, [&](int64_t sample) { alive->after_step(group.to.back(), sample); });
    for_rows(s, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) alive->apply_mask(group.to.back(), row / s.H, row % s.H);
    });
  }
}

// What a share of the rows works with in all steps.
struct BackwardShare {
  // `shared`: the mask that is everybody's, or null: where the rule has one, it is this share's own.
  BackwardShare(const Step& step, Alive* shared, int64_t begin, int64_t end, double* grad_params, float* grad_frames)
      : begin(begin), end(end), s(step), columns(std::min(s.W, s.tile)), partial(s, begin, end, grad_params) {
    if (!shared && s.alive_channel >= 0) own.emplace(s);
    alive = own ? &*own : shared;
    backward = std::make_unique<Backward>(s, partial, columns, std::clamp<int64_t>(group_cells(s.inputs()) / columns, 1, end - begin), alive, grad_frames);
    if (alive && alive->looks_after()) chain = std::make_unique<Chain>(s, 1, columns, &alive->cells);
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
  float *from = grad, *to = other;
  for (int64_t n = count - 1; !whole && n >= 0; --n, std::swap(from, to)) {
    const float* const x = states + n * size;
    s.step = uint32_t(first_step + n);
    if (alive) {
      for_all_samples(s, [&](int64_t sample) { alive->before_step(x, sample, true); });
      if (alive->looks_after()) for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) { share(i, begin, end, s.step).update(x, to); });
      for_all_samples(s, [&](int64_t sample) { alive->after_step(to, sample); });
    }
    for_shares(s, shares, [&](int64_t i, int64_t begin, int64_t end) { share(i, begin, end, s.step).backward->rows(x, from, to, begin, end); });
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
