// The network on packed cells: products of a small matrix with a chunk of cells, blocked in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "interface.h"
#include "simd.h"

namespace nca_fast {

constexpr int R = 6;       // outputs of a register block: R * V accumulators
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
  int in, blocks;
};

// A layer of a network that was packed: W and its transpose as panels, and the bias, zero-padded.
struct Layer {
  static int64_t size(int out, int in) { return Panel::size(out, in) + Panel::size(in, out) + round_up(out, R); }

  static void pack(const float* weight, const float* bias_or_null, int out, int in, float* packed) {
    Panel::pack(weight, out, in, false, packed);
    Panel::pack(weight, in, out, true, packed + Panel::size(out, in));
    float* bias = packed + Panel::size(out, in) + Panel::size(in, out);
    std::fill_n(bias, round_up(out, R), 0.f);
    if (bias_or_null) std::copy_n(bias_or_null, out, bias);
  }

  Layer(const float* packed, int out, int in, bool has_bias)
      : out(out), in(in), has_bias(has_bias), forward{packed, in, int(round_up(out, R)) / R},
        backward{packed + Panel::size(out, in), out, int(round_up(in, R)) / R}, bias(packed + Panel::size(out, in) + Panel::size(in, out)) {}

  int out, in;
  bool has_bias;
  Panel forward, backward;
  const float* bias;
};

// The layers of one rule.
using Network = std::vector<Layer>;

// visit(out, in, has bias) for every layer.
template <class Visit>
void for_layers(const Rule& rule, const Visit& visit) {
  for (const int64_t* at = rule.shapes; at < rule.shapes + 3 * rule.layers; at += 3) visit(at[0], at[1], at[2]);
}

inline int64_t packed_size(const Rule& rule) {
  int64_t size = 0;
  for_layers(rule, [&](int64_t out, int64_t in, int64_t) { size += Layer::size(out, in); });
  return size;
}

inline int64_t parameter_count(const Rule& rule) {
  int64_t count = 0;
  for_layers(rule, [&](int64_t out, int64_t in, int64_t has_bias) { count += out * (in + has_bias); });
  return count;
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

// out[o][p] = bias[o] + sum over k of W[o][k] in[k][p], for N vectors of cells p.
template <int N, Then THEN>
void dense_vectors(const Panel& w, const float* bias, Cells<const float> in, const float* hidden, Cells<float> out) {
  for (int b = 0; b < w.blocks; ++b) {
    vf a[R][N];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) a[r][v] = bias ? splat(bias[b * R + r]) : splat(0.f);
    const float* panel = w.data + int64_t(b) * w.in * R;
    for (int k = 0; k < w.in; ++k) {
      vf y[N];
      for (int v = 0; v < N; ++v) y[v] = load(in.at + k * in.stride + v * VL);
      for (int r = 0; r < R; ++r) {
        const vf c = splat(panel[k * R + r]);
        for (int v = 0; v < N; ++v) a[r][v] += c * y[v];
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) {
        const int64_t row = b * R + r;
        if (THEN == Then::relu) a[r][v] = relu(a[r][v]);
        if (THEN == Then::gate) a[r][v] = relu_gate(load(hidden + row * CHUNK + v * VL), a[r][v]);
        store(out.at + row * out.stride + v * VL, a[r][v]);
      }
  }
}

template <Then THEN>
void dense(const Panel& w, const float* bias, Cells<const float> in, const float* hidden, Cells<float> out, int cells) {
  for (int p = 0; p < cells; p += V * VL) {
    const float* h = THEN == Then::gate ? hidden + p : nullptr;
    switch (std::min(V, (cells - p + VL - 1) / VL)) {
      case 1: dense_vectors<1, THEN>(w, bias, in + p, h, out + p); break;
      case 2: dense_vectors<2, THEN>(w, bias, in + p, h, out + p); break;
      case 3: dense_vectors<3, THEN>(w, bias, in + p, h, out + p); break;
      default: dense_vectors<V, THEN>(w, bias, in + p, h, out + p);
    }
  }
}

// [rows][cells] -> [cells][stride], by squares of VL x VL in registers.
inline void transpose(Cells<const float> in, int rows, int cells, float* out, int stride) {
  for (int k = 0; k < rows; k += VL)
    for (int p = 0; p < cells; p += VL)
      transpose_square(in.at + k * in.stride + p, in.stride, out + int64_t(p) * stride + k, stride);
}

// grad_w[o][k] += sum over cells p of grad[o][p] in[p][k], for N vectors of inputs k.
template <int N>
void outer_vectors(Cells<const float> grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for (int o = 0; o < out; o += R) {
    vf a[R][N];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) a[r][v] = splat(0.f);
    for (int p = 0; p < cells; ++p) {
      vf y[N];
      for (int v = 0; v < N; ++v) y[v] = load(in + int64_t(p) * stride + v * VL);
      for (int r = 0; r < R; ++r) {
        const vf g = splat(grad.at[(o + r) * grad.stride + p]);
        for (int v = 0; v < N; ++v) a[r][v] += g * y[v];
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) {
        float* at = grad_w + int64_t(o + r) * stride + v * VL;
        store(at, load(at) + a[r][v]);
      }
  }
}

inline void outer(Cells<const float> grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for (int k = 0; k < stride; k += V * VL) switch (std::min(V, (stride - k) / VL)) {
      case 1: outer_vectors<1>(grad, in + k, cells, out, stride, grad_w + k); break;
      case 2: outer_vectors<2>(grad, in + k, cells, out, stride, grad_w + k); break;
      case 3: outer_vectors<3>(grad, in + k, cells, out, stride, grad_w + k); break;
      default: outer_vectors<V>(grad, in + k, cells, out, stride, grad_w + k);
    }
}

}  // namespace nca_fast
