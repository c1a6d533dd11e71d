// Steps of a neural cellular automaton on the CPU, forward and backward. nca_fast/reference.py is the definition.
//
//     y = filters * x        h = relu(W1 y + b1), ...        u = W2 h + b2        x' = x + m u
//
// Only firing cells (m = 1) enter the network. Per row the filters are evaluated for VL columns at a time; the lanes that
// fire are packed into [inputs][PACK] buffers in L1, and each full buffer runs through the layers as a register-blocked
// matrix product. The backward pass packs the same cells again, recomputes their hidden units, and returns the gradient
// of perception to the canvas by the transposed filters. Weight gradients are one partial sum per chunk of rows, added
// in the order of the chunks: same inputs and same thread count give the same bits.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "simd.h"

#ifndef NCA_FAST_NAMESPACE
#define NCA_FAST_NAMESPACE nca_fast_cpu
#endif

namespace {

constexpr int PACK = 64;         // cells that run through the network together
constexpr int S = PACK + VL;     // stride of packed rows: room for the lanes by which the last block overshoots
constexpr int R = 6;             // outputs of a register block: R * V accumulators
constexpr int64_t TILE = 256;    // columns of a tile: its rows stay in L1/L2
constexpr int64_t GROUP = 512;   // cells whose perception gradient is gathered before the transposed filters run

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Buffer {  // 64-byte aligned, uninitialised
  explicit Buffer(int64_t n) : data(static_cast<float*>(std::aligned_alloc(64, round_up(std::max<int64_t>(n, 1) * 4, 64)))) {
    TORCH_CHECK(data, "nca_fast: out of memory for ", n * 4, " bytes of scratch");
  }
  operator float*() const { return data.get(); }
  struct Free { void operator()(float* p) const { std::free(p); } };
  std::unique_ptr<float, Free> data;
};

// --- the network on packed cells ------------------------------------------------------------------------------------

// A matrix [out][in] as blocks of R outputs, [out / R][in][R], zero-padded: the order in which `dense` reads it.
struct Panel {
  Panel(const float* weight, int out, int in, bool transposed) : in(in), blocks((out + R - 1) / R), data(int64_t(blocks) * in * R) {
    for (int o = 0; o < blocks * R; ++o)
      for (int k = 0; k < in; ++k)
        data[(int64_t(o / R) * in + k) * R + o % R] = o >= out ? 0.f : transposed ? weight[int64_t(k) * out + o] : weight[int64_t(o) * in + k];
  }
  int in, blocks;
  Buffer data;
};

struct Layer {
  Layer(const float* weight, const float* bias_or_null, int out, int in)
      : out(out), in(in), forward(weight, out, in, false), backward(weight, in, out, true), bias(round_up(out, R)), has_bias(bias_or_null) {
    std::fill_n(static_cast<float*>(bias), round_up(out, R), 0.f);
    if (has_bias) std::copy_n(bias_or_null, out, static_cast<float*>(bias));
  }
  int out, in;
  Panel forward, backward;  // W and its transpose
  Buffer bias;
  bool has_bias;
};

enum class Then { nothing, relu, gate };  // gate: zero where the hidden unit was not positive

// out[o][p] = bias[o] + sum over k of W[o][k] in[k][p], for N vectors of cells p.
template <int N, Then THEN>
void dense_vectors(const Panel& w, const float* bias, const float* in, const float* hidden, float* out) {
  for (int b = 0; b < w.blocks; ++b) {
    vf a[R][N];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) a[r][v] = bias ? splat(bias[b * R + r]) : splat(0.f);
    const float* panel = w.data + int64_t(b) * w.in * R;
    for (int k = 0; k < w.in; ++k) {
      vf y[N];
      for (int v = 0; v < N; ++v) y[v] = load(in + k * S + v * VL);
      for (int r = 0; r < R; ++r) {
        const vf c = splat(panel[k * R + r]);
        for (int v = 0; v < N; ++v) a[r][v] += c * y[v];
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) {
        const int64_t at = int64_t(b * R + r) * S + v * VL;
        if (THEN == Then::relu) a[r][v] = positive_part(a[r][v]);
        if (THEN == Then::gate) a[r][v] = where_positive(load(hidden + at), a[r][v]);
        store(out + at, a[r][v]);
      }
  }
}

template <Then THEN>
void dense(const Panel& w, const float* bias, const float* in, const float* hidden, float* out, int cells) {
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

// [rows][S] -> [PACK][stride], by squares of VL x VL in registers.
void transpose(const float* in, int rows, int cells, float* out, int stride) {
  for (int k = 0; k < rows; k += VL)
    for (int p = 0; p < cells; p += VL) transpose_square(in + int64_t(k) * S + p, S, out + int64_t(p) * stride + k, stride);
}

// grad_w[o][k] += sum over cells p of grad[o][p] in[p][k], for N vectors of inputs k.
template <int N>
void outer_vectors(const float* grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for (int o = 0; o < out; o += R) {
    vf a[R][N];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < N; ++v) a[r][v] = splat(0.f);
    for (int p = 0; p < cells; ++p) {
      vf y[N];
      for (int v = 0; v < N; ++v) y[v] = load(in + int64_t(p) * stride + v * VL);
      for (int r = 0; r < R; ++r) {
        const vf g = splat(grad[int64_t(o + r) * S + p]);
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

void outer(const float* grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for (int k = 0; k < stride; k += V * VL) switch (std::min(V, (stride - k) / VL)) {
      case 1: outer_vectors<1>(grad, in + k, cells, out, stride, grad_w + k); break;
      case 2: outer_vectors<2>(grad, in + k, cells, out, stride, grad_w + k); break;
      case 3: outer_vectors<3>(grad, in + k, cells, out, stride, grad_w + k); break;
      default: outer_vectors<V>(grad, in + k, cells, out, stride, grad_w + k);
    }
}

// --- one step of one canvas -----------------------------------------------------------------------------------------

struct Step {
  Step(const at::Tensor& x, const at::Tensor& params, const at::Tensor& fire, const at::Tensor& stencils, at::IntArrayRef shapes,
       int64_t frozen, bool circular, int64_t seed, int64_t origin_row, int64_t origin_column, int64_t first_sample)
      : B(x.size(0)), C(x.size(1)), H(x.size(2)), W(x.size(3)), F(stencils.size(0)), frozen(frozen), circular(circular),
        seed(seed), row0(origin_row), column0(origin_column), sample0(first_sample), fire(fire.data_ptr<int64_t>()),
        fire_map(fire.dim() == 2), stencils(stencils.data_ptr<float>()) {
    const float* at = params.data_ptr<float>();
    for (size_t i = 0; i < shapes.size(); i += 3) {
      const int64_t out = shapes[i], in = shapes[i + 1];
      layers.push_back(std::make_unique<Layer>(at, shapes[i + 2] ? at + out * in : nullptr, out, in));
      at += out * in + (shapes[i + 2] ? out : 0);
    }
    for (int64_t f = 0; f < F; ++f) {
      const float* t = this->stencils + 9 * f;
      identity.push_back(std::all_of(t, t + 9, [&](const float& v) { return v == (&v == t + 4 ? 1.f : 0.f); }));
    }
  }

  int inputs() const { return layers.front()->in; }
  int64_t plane() const { return H * W; }
  int64_t wrap(int64_t row) const { return row < 0 ? row + H : row >= H ? row - H : row; }

  int64_t B, C, H, W, F, frozen;
  bool circular;
  uint64_t seed;
  uint32_t row0, column0, sample0;
  uint32_t step = 0;
  const int64_t* fire;  // a cell fires when its hash is below: one number, or a map [H][W]
  bool fire_map;
  const float* stencils;  // [F][3][3]
  std::vector<char> identity;
  std::vector<std::unique_ptr<Layer>> layers;
};

struct RowKey { uint32_t k0, k1; };

RowKey philox_row_key(const Step& s, int64_t sample, int64_t row) {  // Philox4x32-10, see nca_fast/fire_mask.py
  uint32_t c0 = s.row0 + uint32_t(row), c1 = s.sample0 + uint32_t(sample), c2 = s.step, c3 = 0;
  uint32_t k0 = uint32_t(s.seed), k1 = uint32_t(s.seed >> 32);
  for (int i = 0; i < 10; ++i) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1), c3 = uint32_t(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {c0, c1};
}

// One bit per lane for the cells of columns column .. column + min(VL, left) - 1 that fire.
uint32_t fire_bits(const Step& s, RowKey key, int64_t row, int64_t column, int64_t left) {
  vu z = (lane_numbers() + (s.column0 + uint32_t(column))) * 0x9E3779B9u + key.k0;
  z ^= z >> 16, z *= 0x21F0AAADu, z ^= z >> 15, z *= 0x735A2D97u, z ^= z >> 15, z ^= key.k1;
  uint32_t bits = 0;
  if (s.fire_map) {
    const int64_t* limit = s.fire + row * s.W + column;
    for (int i = 0; i < std::min<int64_t>(VL, left); ++i) bits |= uint32_t(int64_t(z[i]) < limit[i]) << i;
    return bits;
  }
  bits = *s.fire > 0 ? lanes_at_most(z, uint32_t(*s.fire - 1)) : 0;
  return left < VL ? bits & ((1u << left) - 1) : bits;
}

struct Block {       // up to VL neighbouring cells, of which those in `bits` lie at packed places `from`, from + 1, ...
  int64_t offset;    // of its first cell, wherever the result goes
  uint32_t bits;
  int from;
};

// Packs firing cells: padded copies of three rows of a tile, the packed perception, and where each packed cell lives.
struct Packer {
  Packer(const Step& s, int64_t columns)
      : s(s), stride(round_up(columns + 1, VL) + 2 * VL), rows(3 * s.C * stride), y(round_up(round_up(s.inputs(), VL), R) * S) {}

  void begin(const float* x, int64_t row, int64_t c0, int64_t c1) {
    canvas = x, left = c0, width = c1 - c0;
    load_row(row - 1), load_row(row);
  }

  float* padded(int64_t row) const { return rows + (row + 3) % 3 * s.C * stride + VL; }

  void load_row(int64_t row) {  // columns left - 1 .. left + width of every channel, from column VL - 1 of the copy
    const bool outside = !s.circular && (row < 0 || row >= s.H);
    const int64_t before = left > 0 ? left - 1 : s.circular ? s.W - 1 : -1, end = left + width;
    const int64_t after = end < s.W ? end : s.circular ? 0 : -1;
    for (int64_t c = 0; c < s.C; ++c) {
      float* to = padded(row) + c * stride;
      if (outside) { std::fill_n(to - 1, width + 2, 0.f); continue; }
      const float* from = canvas + c * s.plane() + s.wrap(row) * s.W;
      std::memcpy(to, from + left, width * sizeof(float));
      to[-1] = before < 0 ? 0.f : from[before];
      to[width] = after < 0 ? 0.f : from[after];
    }
  }

  // Appends the perception of the lanes of one block, columns left + at ..., to the packed cells.
  void perceive(int64_t row, int64_t at, const Lanes& lanes) {
    const float *above = padded(row - 1) + at, *here = padded(row) + at, *below = padded(row + 1) + at;
    for (int64_t c = 0; c < s.C; ++c, above += stride, here += stride, below += stride) {
      const vf x[9] = {load(above - 1), load(above), load(above + 1), load(here - 1), load(here),
                       load(here + 1),  load(below - 1), load(below), load(below + 1)};
      for (int64_t f = 0; f < s.F; ++f) {
        const float* t = s.stencils + 9 * f;
        const vf sum = s.identity[f] ? x[4]
                                     : ((t[0] * x[0] + t[1] * x[1]) + (t[2] * x[2] + t[3] * x[3])) +
                                           ((t[4] * x[4] + t[5] * x[5]) + (t[6] * x[6] + t[7] * x[7])) + t[8] * x[8];
        append(y + (f * s.C + c) * S + count, sum, lanes);
      }
    }
  }

  // Calls visit(offset, bits, from) for the blocks of the first `cells` packed cells and forgets those cells.
  template <class Visit>
  void drain(int cells, const Visit& visit) {
    size_t kept = 0;
    for (const Block& block : blocks) {
      uint32_t later = block.bits;
      for (int n = block.from; n < cells && later; ++n) later &= later - 1;
      if (block.bits ^ later) visit(block.offset, block.bits ^ later, block.from);
      if (later) blocks[kept++] = {block.offset, later, std::max(block.from - cells, 0)};
    }
    blocks.resize(kept);
    count -= cells;
  }

  const Step& s;
  const int64_t stride;
  Buffer rows, y;
  const float* canvas = nullptr;
  int64_t left = 0, width = 0;
  int count = 0;
  std::vector<Block> blocks;
};

// Moves the cells after the first PACK of every packed row to the front.
void shift(float* packed, int64_t rows) {
  for (int64_t k = 0; k < rows; ++k) store(packed + k * S, load(packed + k * S + PACK));
}

// Rows begin .. end of all samples' rows, cut at the samples: f(sample, first row, end row).
template <class Visit>
void for_samples(const Step& s, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t at = begin; at < end;) {
    const int64_t sample = at / s.H, stop = std::min(end, (sample + 1) * s.H);
    visit(sample, at - sample * s.H, stop - sample * s.H);
    at = stop;
  }
}

// f(chunk, first row, end row) in parallel. The cut depends on the sizes and the thread count alone.
template <class Visit>
void for_chunks(const Step& s, int64_t chunks, const Visit& visit) {
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i, i * s.B * s.H / chunks, (i + 1) * s.B * s.H / chunks);
  });
}

int64_t chunk_count(const Step& s) {
  const int64_t enough = std::max<int64_t>(1, s.B * s.H * s.W / 512);  // a chunk of fewer cells is not worth a thread
  return std::min({int64_t(at::get_num_threads()), enough, s.B * s.H});
}

std::vector<std::unique_ptr<Buffer>> hidden_buffers(const Step& s) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (const auto& layer : s.layers) buffers.push_back(std::make_unique<Buffer>(round_up(round_up(layer->out, VL), R) * S));
  return buffers;
}

// --- forward --------------------------------------------------------------------------------------------------------

void forward_rows(const Step& s, const float* x, float* out, int64_t begin, int64_t end) {
  Packer packer(s, std::min(s.W, TILE));
  const auto hidden = hidden_buffers(s);
  for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
    const float* x_sample = x + sample * s.C * s.plane();
    float* out_sample = out + sample * s.C * s.plane();
    const auto run = [&](int cells) {
      const float* in = packer.y;
      for (size_t i = 0; i < s.layers.size(); in = *hidden[i++]) {
        const Layer& layer = *s.layers[i];
        if (i + 1 < s.layers.size()) dense<Then::relu>(layer.forward, layer.bias, in, nullptr, *hidden[i], cells);
        else dense<Then::nothing>(layer.forward, layer.bias, in, nullptr, *hidden[i], cells);
      }
      packer.drain(cells, [&](int64_t offset, uint32_t bits, int from) {
        float* to = out_sample + s.frozen * s.plane() + offset;
        for (int64_t c = 0; c < s.C - s.frozen; ++c, to += s.plane()) add_expanded(to, in + c * S + from, bits);
      });
    };
    for (int64_t c0 = 0; c0 < s.W; c0 += TILE) {
      const int64_t c1 = std::min(s.W, c0 + TILE);
      packer.begin(x_sample, r0, c0, c1);
      for (int64_t row = r0; row < r1; ++row) {
        packer.load_row(row + 1);
        for (int64_t c = 0; c < s.C; ++c)
          std::memcpy(out_sample + c * s.plane() + row * s.W + c0, packer.padded(row) + c * packer.stride, (c1 - c0) * sizeof(float));
        const RowKey key = philox_row_key(s, sample, row);
        for (int64_t column = c0; column < c1; column += VL) {
          const Lanes lanes(fire_bits(s, key, row, column, c1 - column));
          if (!lanes.count) continue;
          packer.perceive(row, column - c0, lanes);
          packer.blocks.push_back({row * s.W + column, lanes.bits, packer.count});
          packer.count += lanes.count;
          if (packer.count >= PACK) {
            run(PACK);
            shift(packer.y, s.inputs());
          }
        }
      }
      if (packer.count) run(packer.count);
    }
  });
}

// --- backward -------------------------------------------------------------------------------------------------------

// What one chunk of rows leaves behind: weight gradients, and gradients of rows that belong to another chunk.
struct Partial {
  struct Row { int64_t sample, row; std::unique_ptr<Buffer> grad; };

  explicit Partial(const Step& s) {
    for (const auto& layer : s.layers) {
      const int64_t n = round_up(layer->out, R) * round_up(layer->in, VL);
      weight.push_back(std::make_unique<Buffer>(n)), bias.push_back(std::make_unique<Buffer>(layer->out));
      std::fill_n(static_cast<float*>(*weight.back()), n, 0.f), std::fill_n(static_cast<float*>(*bias.back()), layer->out, 0.f);
    }
  }

  float* outside_row(const Step& s, int64_t sample, int64_t row) {  // [C][W]
    for (const Row& r : outside)
      if (r.sample == sample && r.row == row) return *r.grad;
    outside.push_back({sample, row, std::make_unique<Buffer>(s.C * s.W)});
    std::fill_n(static_cast<float*>(*outside.back().grad), s.C * s.W, 0.f);
    return *outside.back().grad;
  }

  std::vector<std::unique_ptr<Buffer>> weight, bias;  // [out to R][in to VL], [out]
  std::vector<Row> outside;
};

struct Backward {
  Backward(const Step& s, Partial& partial, int64_t columns, int64_t group_rows)
      : s(s), partial(partial), packer(s, columns), hidden(hidden_buffers(s)), grads(hidden_buffers(s)),
        dy_stride(round_up(columns, VL) + 3 * VL), group_rows(group_rows), dy(s.inputs() * group_rows * dy_stride),
        grad_y(round_up(s.inputs(), R) * S), transposed(int64_t(PACK) * widest_input()) {}

  int64_t widest_input() const {
    int64_t widest = 0;
    for (const auto& layer : s.layers) widest = std::max(widest, round_up(layer->in, VL));
    return widest;
  }

  // Gradients of the packed cells: of the weights into `partial`, of the perception into `dy`.
  void run(int cells) {
    const int last = int(s.layers.size()) - 1;
    for (int i = 0; i < last; ++i) {
      const Layer& layer = *s.layers[i];
      dense<Then::relu>(layer.forward, layer.bias, i ? *hidden[i - 1] : packer.y, nullptr, *hidden[i], cells);
    }
    for (int i = last; i >= 0; --i) {
      const Layer& layer = *s.layers[i];
      const float* in = i ? *hidden[i - 1] : packer.y;
      const float* grad = *grads[i];
      const int stride = round_up(layer.in, VL);
      transpose(in, layer.in, cells, transposed, stride);
      outer(grad, transposed, cells, layer.out, stride, *partial.weight[i]);
      if (layer.has_bias)
        for (int o = 0; o < layer.out; ++o) (*partial.bias[i])[o] += sum(grad + int64_t(o) * S, cells);
      if (i) dense<Then::gate>(layer.backward, nullptr, grad, in, *grads[i - 1], cells);
      else dense<Then::nothing>(layer.backward, nullptr, grad, nullptr, grad_y, cells);
    }
    packer.drain(cells, [&](int64_t offset, uint32_t bits, int from) {
      float* to = dy + offset;
      for (int64_t k = 0; k < s.inputs(); ++k, to += group_rows * dy_stride) put_expanded(to, grad_y + k * S + from, bits);
    });
  }

  // Adds what the perception of row `row` owes to the rows above, at and below it: target[i] is row + i - 1, [C], or null.
  void spread(int64_t in_group, int64_t c0, int64_t c1, float* const target[3], const int64_t plane[3]) {
    const int64_t before = c0 > 0 ? c0 - 1 : s.circular ? s.W - 1 : -1, after = c1 < s.W ? c1 : s.circular ? 0 : -1;
    for (int64_t c = 0; c < s.C; ++c) {
      const float* base = dy + (c * group_rows + in_group) * dy_stride + VL;
      const int64_t next_filter = s.C * group_rows * dy_stride;
      for (int64_t q = -1; q <= c1 - c0; q += VL) {  // columns c0 + q ..., one beyond the tile on both sides
        vf a[3] = {splat(0.f), splat(0.f), splat(0.f)};
        const float* d = base + q;
        for (int64_t f = 0; f < s.F; ++f, d += next_filter) {
          if (s.identity[f]) { a[1] += load(d); continue; }
          const vf west = load(d + 1), centre = load(d), east = load(d - 1);
          const float* t = s.stencils + 9 * f;
          for (int i = 0; i < 3; ++i) a[i] += t[3 * i] * west + t[3 * i + 1] * centre + t[3 * i + 2] * east;
        }
        const bool inner = q >= 0 && q + VL <= c1 - c0;
        for (int i = 0; i < 3; ++i) {
          if (!target[i]) continue;
          float* row = target[i] + c * plane[i];
          if (inner) { store(row + c0 + q, load(row + c0 + q) + a[i]); continue; }
          for (int64_t lane = 0, column = c0 + q; lane < VL && column <= c1; ++lane, ++column) {
            const int64_t to = column < c0 ? before : column == c1 ? after : column;
            if (to >= 0) row[to] += a[i][lane];
          }
        }
      }
    }
  }

  void rows(const float* x, const float* grad, float* grad_x, int64_t begin, int64_t end) {
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      const int64_t first = sample * s.C * s.plane();
      for (int64_t c = 0; c < s.C; ++c) {
        const int64_t at = first + c * s.plane() + r0 * s.W;
        std::memcpy(grad_x + at, grad + at, (r1 - r0) * s.W * sizeof(float));
      }
      for (int64_t c0 = 0; c0 < s.W; c0 += TILE) {
        const int64_t c1 = std::min(s.W, c0 + TILE);
        packer.begin(x + first, r0, c0, c1);
        for (int64_t group = r0; group < r1; group += group_rows) {
          const int64_t group_end = std::min(r1, group + group_rows);
          std::memset(dy, 0, s.inputs() * group_rows * dy_stride * sizeof(float));
          for (int64_t row = group; row < group_end; ++row) pack_row(sample, row, group, grad + first, c0, c1);
          if (packer.count) run(packer.count);
          for (int64_t row = group; row < group_end; ++row) {
            float* target[3];
            int64_t plane[3];
            for (int i = 0; i < 3; ++i) {
              const int64_t to = row + i - 1;
              const bool lost = !s.circular && (to < 0 || to >= s.H), own = s.wrap(to) >= r0 && s.wrap(to) < r1;
              target[i] = lost ? nullptr : own ? grad_x + first + s.wrap(to) * s.W : partial.outside_row(s, sample, s.wrap(to));
              plane[i] = own ? s.plane() : s.W;
            }
            spread(row - group, c0, c1, target, plane);
          }
        }
      }
    });
  }

  void pack_row(int64_t sample, int64_t row, int64_t group, const float* grad, int64_t c0, int64_t c1) {
    packer.load_row(row + 1);
    const RowKey key = philox_row_key(s, sample, row);
    float* packed = *grads.back();
    for (int64_t column = c0; column < c1; column += VL) {
      const Lanes lanes(fire_bits(s, key, row, column, c1 - column));
      if (!lanes.count) continue;
      packer.perceive(row, column - c0, lanes);
      const float* g = grad + s.frozen * s.plane() + row * s.W + column;
      for (int64_t c = 0; c < s.C - s.frozen; ++c, g += s.plane())
        append(packed + c * S + packer.count, load_some(g, c1 - column), lanes);
      packer.blocks.push_back({(row - group) * dy_stride + VL + column - c0, lanes.bits, packer.count});
      packer.count += lanes.count;
      if (packer.count >= PACK) {
        run(PACK);
        shift(packer.y, s.inputs());
        shift(packed, s.C - s.frozen);
      }
    }
  }

  const Step& s;
  Partial& partial;
  Packer packer;
  const std::vector<std::unique_ptr<Buffer>> hidden, grads;  // per layer, [out][S]: outputs, and gradients of the outputs
  const int64_t dy_stride, group_rows;
  Buffer dy;      // [inputs][group_rows][dy_stride], columns from VL on, zeros around: gradient of the perception
  Buffer grad_y;  // the same of packed cells, [inputs][S]
  Buffer transposed;
};

// --- the two operators ----------------------------------------------------------------------------------------------

// states[j] = x after (j + 1) * every steps.
void advance(const at::Tensor& x, const at::Tensor& params, const at::Tensor& fire, const at::Tensor& stencils, at::IntArrayRef layers,
             int64_t frozen, bool circular, int64_t seed, int64_t origin_row, int64_t origin_column, int64_t first_sample,
             int64_t first_step, at::Tensor states, int64_t every) {
  Step s(x, params, fire, stencils, layers, frozen, circular, seed, origin_row, origin_column, first_sample);
  const int64_t size = x.numel(), steps = states.size(0) * every;
  const at::Tensor scratch = every > 1 ? at::empty_like(x) : at::Tensor();
  const float* from = x.data_ptr<float>();
  for (int64_t n = 0; n < steps; ++n) {
    s.step = uint32_t(first_step + n);
    float* state = states.data_ptr<float>() + n / every * size;
    float* to = (every - 1 - n % every) % 2 ? scratch.data_ptr<float>() : state;  // the last of `every` lands in states
    for_chunks(s, chunk_count(s), [&](int64_t, int64_t begin, int64_t end) { forward_rows(s, from, to, begin, end); });
    from = to;
  }
}

// grad_x = gradient of x when one step is taken from x and `grad` is that of its result; grad_params is added to.
void retreat(const at::Tensor& x, const at::Tensor& grad, const at::Tensor& params, const at::Tensor& fire, const at::Tensor& stencils,
             at::IntArrayRef layers, int64_t frozen, bool circular, int64_t seed, int64_t origin_row, int64_t origin_column,
             int64_t first_sample, int64_t step, at::Tensor grad_x, at::Tensor grad_params) {
  Step s(x, params, fire, stencils, layers, frozen, circular, seed, origin_row, origin_column, first_sample);
  s.step = uint32_t(step);
  const int64_t chunks = chunk_count(s), columns = std::min(s.W, TILE);
  float* out = grad_x.data_ptr<float>();
  std::vector<std::unique_ptr<Partial>> partials(chunks);
  for_chunks(s, chunks, [&](int64_t i, int64_t begin, int64_t end) {
    partials[i] = std::make_unique<Partial>(s);
    const int64_t group_rows = std::clamp<int64_t>(GROUP / columns, 1, end - begin);
    Backward(s, *partials[i], columns, group_rows).rows(x.data_ptr<float>(), grad.data_ptr<float>(), out, begin, end);
  });
  for (const auto& partial : partials) {
    for (const auto& row : partial->outside)
      for (int64_t c = 0; c < s.C; ++c) {
        float* to = out + (row.sample * s.C + c) * s.plane() + row.row * s.W;
        const float* from = *row.grad + c * s.W;
        for (int64_t i = 0; i < s.W; ++i) to[i] += from[i];
      }
    double* at = grad_params.data_ptr<double>();
    for (size_t i = 0; i < s.layers.size(); ++i) {
      const Layer& layer = *s.layers[i];
      for (int64_t o = 0; o < layer.out; ++o)
        for (int64_t k = 0; k < layer.in; ++k) *at++ += (*partial->weight[i])[o * round_up(layer.in, VL) + k];
      for (int64_t o = 0; layer.has_bias && o < layer.out; ++o) *at++ += (*partial->bias[i])[o];
    }
  }
}

}  // namespace

TORCH_LIBRARY(NCA_FAST_NAMESPACE, m) {
  m.def("advance(Tensor x, Tensor params, Tensor fire, Tensor stencils, int[] layers, int frozen, bool circular, int seed, "
        "int origin_row, int origin_column, int first_sample, int first_step, Tensor(a!) states, int every) -> ()", &advance);
  m.def("retreat(Tensor x, Tensor grad, Tensor params, Tensor fire, Tensor stencils, int[] layers, int frozen, bool circular, "
        "int seed, int origin_row, int origin_column, int first_sample, int step, Tensor(a!) grad_x, Tensor(b!) grad_params) -> ()", &retreat);
}
