// The network on packed cells: products of a small matrix with a chunk of cells, blocked in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "interface.h"
#include "simd.h"

namespace nca_fast {

constexpr int CHUNK = 64;  // cells that run through the network together: their units stay in L1

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Buffer {  // 64-byte aligned, uninitialised but where `zeros` are asked for
  enum Zeros { zeros };
  Buffer(int64_t n, Zeros) : Buffer(n) { std::fill_n(data.get(), n, 0.f); }
  explicit Buffer(int64_t n) : data(static_cast<float*>(std::aligned_alloc(64, round_up(std::max<int64_t>(n, 1) * 4, 64)))) {
    if (!data) throw std::runtime_error("nca_fast: out of memory for " + std::to_string(n * 4) + " bytes of scratch");
  }
  operator float*() const { return data.get(); }
  struct Free { void operator()(float* p) const { std::free(p); } };
  std::unique_ptr<float, Free> data;
};

// A matrix [out][in] as blocks of R outputs, [out / R][in][R], zero-padded: the order in which `dense` reads it.
struct Panel {
  static int64_t size(int out, int in) { return round_up(out, R) * in; }

  static void pack(const float* weight, int out, int in, bool transposed, float* panel) {
    for (int o = 0; o < round_up(out, R); ++o)
      for (int k = 0; k < in; ++k)
        panel[(int64_t(o / R) * in + k) * R + o % R] = o >= out ? 0.f : transposed ? weight[int64_t(k) * out + o] : weight[int64_t(o) * in + k];
  }

  const float* data;
  int in, out;
};

// A layer of a network that was packed: W and its transpose as panels, and the bias, zero-padded. The panels of a first
// layer hold the columns of `seen` inputs alone, which come first in what is packed; see `channels_seen`.
struct Layer {
  static int64_t size(int out, int in) { return Panel::size(out, in) + Panel::size(in, out) + round_up(out, R); }

  // weight [out][seen]
  static void pack(const float* weight, const float* bias_or_null, int out, int in, int seen, float* packed) {
    Panel::pack(weight, out, seen, false, packed);
    Panel::pack(weight, seen, out, true, packed + Panel::size(out, in));
    float* bias = packed + Panel::size(out, in) + Panel::size(in, out);
    std::fill_n(bias, round_up(out, R), 0.f);
    if (bias_or_null) std::copy_n(bias_or_null, out, bias);
  }

  Layer(const float* packed, int out, int in, int seen, bool has_bias)
      : out(out), in(in), has_bias(has_bias), forward{packed, seen, out},
        backward{packed + Panel::size(out, in), out, seen}, bias(packed + Panel::size(out, in) + Panel::size(in, out)) {}

  int out, in;
  bool has_bias;
  Panel forward, backward;
  const float* bias;
};

constexpr int TAPS = 9;  // of a learned filter

// The layers of one rule, and the taps of its learned filters, [channels][learned][TAPS].
struct Network : std::vector<Layer> {
  const float* taps = nullptr;
};


// visit(integral constant N, first of N) for up to MOST at once of `count`, all of them.
template <int MOST = 3, class Visit>
inline void for_learned(int64_t count, const Visit& visit, int64_t first = 0) {
  for (; first + MOST <= count; first += MOST) visit(std::integral_constant<int, MOST>(), first);
  if constexpr (MOST > 1)
    if (first < count) for_learned<MOST - 1>(count, visit, first);
}

// visit(out, in, has bias) for every layer.
template <class Visit>
void for_layers(const Rule& rule, const Visit& visit) {
  for (const int64_t* at = rule.shapes; at < rule.shapes + 3 * rule.layers; at += 3) visit(at[0], at[1], at[2]);
}

inline int64_t channel_count(const Rule& rule) {
  int64_t written = 0;
  for_layers(rule, [&](int64_t out, int64_t, int64_t) { written = out; });
  return rule.frozen + written;
}

// The taps of all learned filters.
inline int64_t tap_count(const Rule& rule) { return rule.learned * channel_count(rule) * TAPS; }

// What a cell perceives of every channel: by the filters, the learned ones, and the local maximum.
inline int64_t map_count(const Rule& rule) { return rule.filters + rule.learned + (rule.window > 0); }

inline int64_t packed_size(const Rule& rule) {
  int64_t size = tap_count(rule) + channel_count(rule);
  for_layers(rule, [&](int64_t out, int64_t in, int64_t) { size += Layer::size(out, in); });
  return size;
}

inline int64_t parameter_count(const Rule& rule) {
  int64_t count = tap_count(rule);
  for_layers(rule, [&](int64_t out, int64_t in, int64_t has_bias) { count += out * (in + has_bias); });
  return count;
}

// 1 for every channel that a unit of any network looks at, else 0: products with columns of zeros are left out, but for the
// gradients of these. (What such a channel holds does not matter, even infinity.) Where none is looked at, all are.
inline std::vector<float> channels_seen(const Rule& rule, const float* params, int64_t networks) {
  const int64_t C = channel_count(rule), maps = map_count(rule), out = rule.shapes[0];
  std::vector<float> seen(C, 0.f);
  int64_t left = C;
  for (int64_t n = 0; n < networks && left; ++n) {
    const float* at = params + n * parameter_count(rule) + tap_count(rule);
    for (const float* const end = at + out * maps * C; at < end && left; at += C)
      for (int64_t c = 0; c < C; ++c)
        if (at[c] != 0 && seen[c] == 0) seen[c] = 1, --left;
  }
  if (left == C) seen.assign(C, 1.f);
  return seen;
}

// The rows of what is packed of a channel, map after map: first, first + apart, ... Those that are seen come first.
struct Rows { int64_t first, apart; };

inline std::vector<Rows> rows_of_channels(const float* seen, int64_t C, int64_t maps) {
  const int64_t all = std::count(seen, seen + C, 1.f);
  std::vector<Rows> rows(C);
  for (int64_t c = 0, before = 0; c < C; ++c) {
    rows[c] = seen[c] != 0 ? Rows{before, all} : Rows{maps * all + c - before, C - all};
    before += seen[c] != 0;
  }
  return rows;
}

// Numbers of packed cells: row k, cell p is at[k * stride + p].
template <class T>
struct Cells {
  Cells operator+(int64_t cells) const { return {at + cells, stride}; }
  operator Cells<const float>() const { return {at, stride}; }
  T* at;
  int64_t stride;
};

enum class Then { nothing, relu, gate };  // gate: zero where the hidden unit was not positive

constexpr int DEPTH = 96;  // the most inputs of a pass: those of a block of cells, read for all outputs, stay in L1

struct Pass { int begin, end; };  // the inputs that a product sums at once; the sums of those before lie in its outputs

// visit(integral constant N, first row) for blocks of R rows, of which the last computes no more than two that are not asked for.
template <class Visit>
inline void for_blocks(int rows, const Visit& visit) {
  int first = 0;
  for (; first + R - 2 < rows; first += R) visit(std::integral_constant<int, R>(), first);
  if (rows - first > 2) visit(std::integral_constant<int, 4>(), first);
  else if (rows > first) visit(std::integral_constant<int, 2>(), first);
}

// out[o][p] = bias[o] + sum over k of W[o][k] in[k][p], for N vectors of cells p; `beside()` after each block.
template <int N, Then THEN, bool FIRST, class Beside>
void dense_vectors(const Panel& w, Pass pass, const float* bias, Cells<const float> in, const float* hidden, Cells<float> out, Beside& beside) {
  for_blocks(w.out, [&](auto rows, int first) {
    constexpr int ROWS = decltype(rows)::value;
    vf a[ROWS][N];
    float* const to = out.at + first * out.stride;
    for (int r = 0; r < ROWS; ++r)
      for (int v = 0; v < N; ++v) a[r][v] = FIRST ? bias ? splat(bias[first + r]) : splat(0.f) : load(to + r * out.stride + v * VL);
    const float* panel = w.data + int64_t(first) * w.in;
    for (int k = pass.begin; k < pass.end; ++k) {
      vf y[N];
      for (int v = 0; v < N; ++v) y[v] = load(in.at + k * in.stride + v * VL);
      for (int r = 0; r < ROWS; ++r) {
        const vf c = splat(panel[k * R + r]);
        for (int v = 0; v < N; ++v) a[r][v] += c * y[v];
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int v = 0; v < N; ++v) {
        if (THEN == Then::relu) a[r][v] = relu(a[r][v]);
        if (THEN == Then::gate) a[r][v] = relu_gate(load(hidden + (first + r) * CHUNK + v * VL), a[r][v]);
        store(to + r * out.stride + v * VL, a[r][v]);
      }
    beside();
  });
}

template <Then THEN, bool FIRST, class Beside>
void dense_pass(const Panel& w, Pass pass, const float* bias, Cells<const float> in, const float* hidden, Cells<float> out, int cells, Beside& beside) {
  for (int p = 0; p < cells; p += V * VL) {
    const float* h = THEN == Then::gate ? hidden + p : nullptr;
    switch (std::min(V, (cells - p + VL - 1) / VL)) {
      case 1: dense_vectors<1, THEN, FIRST>(w, pass, bias, in + p, h, out + p, beside); break;
      case 2: dense_vectors<2, THEN, FIRST>(w, pass, bias, in + p, h, out + p, beside); break;
      case 3: dense_vectors<3, THEN, FIRST>(w, pass, bias, in + p, h, out + p, beside); break;
      default: dense_vectors<V, THEN, FIRST>(w, pass, bias, in + p, h, out + p, beside);
    }
  }
}

template <Then THEN, class Beside>
void dense(const Panel& w, const float* bias, Cells<const float> in, const float* hidden, Cells<float> out, int cells, Beside& beside) {
  const int passes = w.out > 2 * R ? (w.in + DEPTH - 1) / DEPTH : 1;
  if (passes == 1) return dense_pass<THEN, true>(w, {0, w.in}, bias, in, hidden, out, cells, beside);
  const auto pass = [&](int i) { return Pass{int(int64_t(i) * w.in / passes), int(int64_t(i + 1) * w.in / passes)}; };
  dense_pass<Then::nothing, true>(w, pass(0), bias, in, nullptr, out, cells, beside);
  for (int i = 1; i + 1 < passes; ++i) dense_pass<Then::nothing, false>(w, pass(i), bias, in, nullptr, out, cells, beside);
  dense_pass<THEN, false>(w, pass(passes - 1), bias, in, hidden, out, cells, beside);
}

constexpr int WIDE = V * VL;  // inputs that `outer` takes together

// [rows][cells] -> [rows / WIDE][CHUNK][WIDE], by squares of VL x VL in registers.
inline void transpose(Cells<const float> in, int rows, int cells, float* out) {
  for (int k = 0; k < rows; k += VL)
    for (int p = 0; p < cells; p += VL) transpose_square(in.at + k * in.stride + p, in.stride, out + k / WIDE * CHUNK * WIDE + p * WIDE + k % WIDE, WIDE);
}

// grad_w[o][k] += sum over cells p of grad[o][p] in[p][k], for N vectors of inputs k.
template <int N>
void outer_vectors(Cells<const float> grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for_blocks(out, [&](auto rows, int first) {
    constexpr int ROWS = decltype(rows)::value;
    vf a[ROWS][N];
    for (int r = 0; r < ROWS; ++r)
      for (int v = 0; v < N; ++v) a[r][v] = splat(0.f);
    for (int p = 0; p < cells; ++p) {
      vf y[N];
      for (int v = 0; v < N; ++v) y[v] = load(in + p * WIDE + v * VL);
      for (int r = 0; r < ROWS; ++r) {
        const vf g = splat(grad.at[(first + r) * grad.stride + p]);
        for (int v = 0; v < N; ++v) a[r][v] += g * y[v];
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int v = 0; v < N; ++v) {
        float* at = grad_w + int64_t(first + r) * stride + v * VL;
        store(at, load(at) + a[r][v]);
      }
  });
}

// The same for all inputs, `in` as `transpose` leaves them and grad_w [out][stride].
inline void outer(Cells<const float> grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for (int k = 0; k < stride; k += WIDE, in += CHUNK * WIDE) switch (std::min(V, (stride - k) / VL)) {
      case 1: outer_vectors<1>(grad, in, cells, out, stride, grad_w + k); break;
      case 2: outer_vectors<2>(grad, in, cells, out, stride, grad_w + k); break;
      case 3: outer_vectors<3>(grad, in, cells, out, stride, grad_w + k); break;
      default: outer_vectors<V>(grad, in, cells, out, stride, grad_w + k);
    }
}

}  // namespace nca_fast
