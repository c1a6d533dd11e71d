// Steps of a neural cellular automaton on the CPU, forward and backward. nca_fast/reference.py is the definition.
//
//     y = filters * x        h = relu(W1 y + b1), ...        u = W2 h + b2        x' = x + m u
//
// Only firing cells (m = 1) enter the network. Per row the filters are evaluated for VL columns at a time; the lanes that
// fire are packed, and every CHUNK of packed cells runs through the layers as a register-blocked
// matrix product. The backward pass packs the same cells again, recomputes their hidden units, and returns the gradient
// of perception to the canvas by the transposed filters. Weight gradients are one partial sum per chunk of rows, added
// in the order of the chunks: same inputs and same thread count give the same bits.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

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

constexpr int R = 6;             // outputs of a register block: R * V accumulators
constexpr int CHUNK = 64;        // cells that run through the network together: their units stay in L1
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
        if (THEN == Then::relu) a[r][v] = positive_part(a[r][v]);
        if (THEN == Then::gate) a[r][v] = where_positive(load(hidden + row * CHUNK + v * VL), a[r][v]);
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
void transpose(Cells<const float> in, int rows, int cells, float* out, int stride) {
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

void outer(Cells<const float> grad, const float* in, int cells, int out, int stride, float* grad_w) {
  for (int k = 0; k < stride; k += V * VL) switch (std::min(V, (stride - k) / VL)) {
      case 1: outer_vectors<1>(grad, in + k, cells, out, stride, grad_w + k); break;
      case 2: outer_vectors<2>(grad, in + k, cells, out, stride, grad_w + k); break;
      case 3: outer_vectors<3>(grad, in + k, cells, out, stride, grad_w + k); break;
      default: outer_vectors<V>(grad, in + k, cells, out, stride, grad_w + k);
    }
}

// --- one step of one canvas -----------------------------------------------------------------------------------------

// A 3x3 filter over three vertical profiles of a column (a, b, c): smooth a + 2 b + c, slope c - a, and b itself. Any
// filter is a sum of horizontally shifted profiles, and the usual ones need few: Sobel x 2, Sobel y 3, Laplacian 4.
struct Correlation {
  struct Term { int profile, shift; float weight; };  // profile 0 smooth, 1 slope, 2 the cell

  explicit Correlation(const float* taps) {
    for (int j = 0; j < 3; ++j) {
      const float a = taps[j], b = taps[3 + j], c = taps[6 + j], weights[3] = {(a + c) / 2, (c - a) / 2, b - a - c};
      for (int profile = 0; profile < 3; ++profile)
        if (weights[profile] != 0) terms[count++] = {profile, j - 1, weights[profile]};
    }
  }

  int count = 0;
  Term terms[9];
};

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
      filters.emplace_back(t);
      for (int i = 0; i < filters[f].count; ++i) {
        const Correlation::Term& term = filters[f].terms[i];
        uses[term.profile].push_back({f, term.shift, term.weight});
      }
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
  std::vector<Correlation> filters;
  struct Use { int64_t filter; int shift; float weight; };
  std::vector<Use> uses[3];  // the terms of all filters, by profile
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
using Blocks = std::vector<Block>;

// Packs the perception of firing cells, and remembers where each packed cell lives. It works on copies of the rows of a
// tile: the channels of a canvas whose side is a power of two all fall into the same few cache sets.
struct Packer {
  // Room for `cells` packed cells.
  Packer(const Step& s, int64_t columns, int64_t cells)
      : s(s), row_size(round_up(columns, VL) + 2 * VL), S(round_up(cells, VL) + VL), rows(3 * s.C * row_size), profiles(3 * row_size),
        y(round_up(round_up(s.inputs(), VL), R) * S) {
    std::memset(y, 0, s.inputs() * S * sizeof(float));  // a filter of zeros has no terms: its rows stay so
  }

  // The tile whose rows, from `row` on, are to be packed: columns c0 to c1 of one sample.
  void begin(const float* x, int64_t row, int64_t c0, int64_t c1) {
    canvas = x, left = c0, width = c1 - c0;
    copy_row(row - 1), copy_row(row);
  }

  // The copy of a row of channel c; valid for columns -1 to width of the tile.
  float* tile_row(int64_t c, int64_t row) const { return rows + ((row + 3) % 3 * s.C + c) * row_size + VL; }

  void copy_row(int64_t row) {
    const bool outside = !s.circular && (row < 0 || row >= s.H);
    const int64_t before = left > 0 ? left - 1 : s.circular ? s.W - 1 : -1, end = left + width;
    const int64_t after = end < s.W ? end : s.circular ? 0 : -1;
    for (int64_t c = 0; c < s.C; ++c) {
      float* to = tile_row(c, row);
      if (outside) { std::fill_n(to - 1, width + 2, 0.f); continue; }
      const float* from = canvas + c * s.plane() + s.wrap(row) * s.W;
      std::memcpy(to, from + left, width * sizeof(float));
      to[-1] = before < 0 ? 0.f : from[before];
      to[width] = after < 0 ? 0.f : from[after];
    }
  }

  // The three profiles of channel c around `row`, for columns from - 1 to to of the tile.
  void profile_columns(int64_t c, int64_t row, int64_t from, int64_t to) const {
    const float *above = tile_row(c, row - 1), *here = tile_row(c, row), *below = tile_row(c, row + 1);
    float *smooth = profiles + VL, *slope = smooth + row_size, *cell = slope + row_size;
    for (int64_t i = from - VL; i <= to; i += VL) {
      const vf a = load(above + i), b = load(here + i), c = load(below + i);
      store(smooth + i, (a + c) + 2 * b);
      store(slope + i, c - a);
      store(cell + i, b);
    }
  }

  // Packs what the cells of the given blocks of a row perceive.
  void perceive(int64_t row, const Blocks& batch) const {
    const int64_t from = batch.front().offset, to = batch.back().offset + VL;
    for (int64_t c = 0; c < s.C; ++c) {
      profile_columns(c, row, from, to);
      for (int64_t f = 0; f < s.F; ++f) {
        const Correlation& filter = s.filters[f];
        float* packed = y + (f * s.C + c) * S;
        switch (filter.count) {
          case 0: break;
          case 1: correlate<1>(filter, packed, batch); break;
          case 2: correlate<2>(filter, packed, batch); break;
          case 3: correlate<3>(filter, packed, batch); break;
          case 4: correlate<4>(filter, packed, batch); break;
          case 5: correlate<5>(filter, packed, batch); break;
          case 6: correlate<6>(filter, packed, batch); break;
          case 7: correlate<7>(filter, packed, batch); break;
          case 8: correlate<8>(filter, packed, batch); break;
          default: correlate<9>(filter, packed, batch);
        }
      }
    }
  }

  template <int N>
  void correlate(const Correlation& filter, float* packed, const Blocks& batch) const {
    vf weight[N];
    const float* from[N];
    for (int i = 0; i < N; ++i) {
      weight[i] = splat(filter.terms[i].weight);
      from[i] = profiles + filter.terms[i].profile * row_size + VL + filter.terms[i].shift;
    }
    for (const Block &block : batch) {
      vf total = weight[0] * load(from[0] + block.offset);
      for (int i = 1; i < N; ++i) total += weight[i] * load(from[i] + block.offset);
      append(packed + block.from, total, block.bits);
    }
  }

  // Packs the firing cells of a row behind those that are left over; `offset` is that of the row's first cell.
  const Blocks& pack_row(int64_t sample, int64_t row, int64_t offset) {
    copy_row(row + 1);
    const RowKey key = philox_row_key(s, sample, row);
    batch.clear();
    for (int64_t at = 0; at < width; at += VL) {
      const uint32_t bits = fire_bits(s, key, row, left + at, width - at);
      blocks.push_back({offset + at, bits, count});
      if (bits) batch.push_back({at, bits, count});
      count += __builtin_popcount(bits);
    }
    if (!batch.empty()) perceive(row, batch);
    return batch;
  }

  void forget() { count = 0, blocks.clear(); }

  // The blocks of the first `cells` packed cells; forgets those cells and moves the others to the front.
  const Blocks& drain(int cells) {
    done.clear();
    size_t kept = 0;
    for (const Block& block : blocks) {
      uint32_t now = block.bits;
      if (!now) continue;
      if (block.from + __builtin_popcount(now) > cells) {
        now = 0;
        for (uint32_t n = block.from, rest = block.bits; int(n) < cells; ++n, rest &= rest - 1) now |= rest & -rest;
        blocks[kept++] = {block.offset, block.bits ^ now, std::max(block.from - cells, 0)};
      }
      if (now) done.push_back({block.offset, now, block.from});
    }
    blocks.resize(kept);
    count -= cells;
    for (int64_t k = 0; k < s.inputs(); ++k)
      for (int p = 0; p < count; p += VL) store(y + k * S + p, load(y + k * S + cells + p));
    return done;
  }

  const Step& s;
  const int64_t row_size;
  const int64_t S;  // stride of packed cells; a store may overshoot by a vector
  Buffer rows;      // three rows in turn, [3][C][row_size], columns from VL on
  Buffer profiles;  // of one channel and row: smooth, slope, cell; [3][row_size]
  Buffer y;         // [inputs][S]
  const float* canvas = nullptr;
  int64_t left = 0, width = 0;
  int count = 0;
  Blocks blocks, batch, done;  // where the packed cells live; scratch
};

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

// [out][CHUNK] for every layer; for the last one, whose cells wait to be written back, [out][cells].
std::vector<std::unique_ptr<Buffer>> unit_buffers(const Step& s, int64_t cells) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (const auto& layer : s.layers)
    buffers.push_back(std::make_unique<Buffer>(round_up(round_up(layer->out, VL), R) * (layer == s.layers.back() ? cells : CHUNK)));
  return buffers;
}

// --- forward --------------------------------------------------------------------------------------------------------

struct Forward {
  Forward(const Step& s, int64_t columns)
      : s(s), packer(s, columns, CHUNK + columns), units(unit_buffers(s, packer.S)), depth(2 + 4 * CHUNK / columns), row_size(round_up(columns, VL)),
        updated(depth * s.C * row_size) {}

  // Updates the first packed cells.
  void run(int cells) {
    const size_t last = s.layers.size() - 1;
    for (int p = 0; p < cells; p += CHUNK) {
      Cells<const float> in{packer.y + p, packer.S};
      const int n = std::min(CHUNK, cells - p);
      for (size_t i = 0; i < last; in = {*units[i++], CHUNK})
        dense<Then::relu>(s.layers[i]->forward, s.layers[i]->bias, in, nullptr, {*units[i], CHUNK}, n);
      dense<Then::nothing>(s.layers[last]->forward, s.layers[last]->bias, in, nullptr, {*units[last] + p, packer.S}, n);
    }
    const Blocks& done = packer.drain(cells);
    const float* u = *units[last];
    float* to = updated + s.frozen * row_size;
    for (int64_t c = s.frozen; c < s.C; ++c, u += packer.S, to += row_size)
      for (const Block& block : done) add_expanded(to + block.offset, u + block.from, block.bits);
  }

  void rows(const float* x, float* out, int64_t begin, int64_t end) {
    for_samples(s, begin, end, [&](int64_t sample, int64_t r0, int64_t r1) {
      for (int64_t c0 = 0; c0 < s.W; c0 += TILE)
        tile(x + sample * s.C * s.plane(), out + sample * s.C * s.plane(), sample, r0, r1, c0, std::min(s.W, c0 + TILE));
    });
  }

  void tile(const float* x, float* out, int64_t sample, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    packer.begin(x, r0, c0, c1);
    int64_t written = r0;  // rows before it are complete and in `out`
    const auto write_until = [&](int64_t end) {
      for (; written < end; ++written)
        for (int64_t c = 0; c < s.C; ++c)
          std::memcpy(out + c * s.plane() + written * s.W + c0, row_at(written) + c * row_size, (c1 - c0) * sizeof(float));
    };
    for (int64_t row = r0; row < r1; ++row) {
      for (int64_t c = 0; c < s.C; ++c)
        std::memcpy(row_at(row) + c * row_size, packer.tile_row(c, row), (c1 - c0) * sizeof(float));
      packer.pack_row(sample, row, row_at(row) - updated);
      if (packer.count >= CHUNK) run(packer.count / CHUNK * CHUNK);
      if (packer.count && row + 1 - written == depth) run(packer.count);  // no room for another row that waits
      write_until(packer.count ? std::max(written, row + 1 - waiting_rows(row)) : row + 1);
    }
    if (packer.count) run(packer.count);
    write_until(r1);
  }

  // Of the rows up to `row`, how many from the first on that has a cell among those left over.
  int64_t waiting_rows(int64_t row) const {
    const int64_t slot = packer.blocks.front().offset / (s.C * row_size);
    return (row % depth - slot + depth) % depth + 1;
  }

  float* row_at(int64_t row) const { return updated + row % depth * s.C * row_size; }

  const Step& s;
  Packer packer;
  const std::vector<std::unique_ptr<Buffer>> units;
  const int64_t depth, row_size;
  Buffer updated;  // rows that wait for their last cells, in turn: [depth][C][row_size]
};

// --- backward -------------------------------------------------------------------------------------------------------

// What one chunk of rows leaves behind: weight gradients, and gradients of rows that belong to another chunk.
struct Partial {
  struct Row { int64_t sample, row; std::unique_ptr<Buffer> grad; };

  explicit Partial(const Step& s) {
    for (const auto& layer : s.layers) {
      const int64_t n = round_up(layer->out, R) * round_up(layer->in, VL);
      weight.push_back(std::make_unique<Buffer>(n)), bias.push_back(std::make_unique<Buffer>(layer->out * VL));
      std::fill_n(static_cast<float*>(*weight.back()), n, 0.f), std::fill_n(static_cast<float*>(*bias.back()), layer->out * VL, 0.f);
    }
  }

  float* outside_row(const Step& s, int64_t sample, int64_t row) {  // [C][W]
    for (const Row& r : outside)
      if (r.sample == sample && r.row == row) return *r.grad;
    outside.push_back({sample, row, std::make_unique<Buffer>(s.C * s.W)});
    std::fill_n(static_cast<float*>(*outside.back().grad), s.C * s.W, 0.f);
    return *outside.back().grad;
  }

  std::vector<std::unique_ptr<Buffer>> weight, bias;  // [out to R][in to VL], [out][VL]
  std::vector<Row> outside;
};

struct Backward {
  Backward(const Step& s, Partial& partial, int64_t columns, int64_t group_rows)
      : s(s), partial(partial), group_rows(group_rows), packer(s, columns, group_rows * round_up(columns, VL)),
        units(unit_buffers(s, CHUNK)), grads(unit_buffers(s, packer.S)), row_size(round_up(columns, VL) + 2 * VL),
        dense_y(s.F * row_size), grad_y(round_up(s.inputs(), R) * packer.S), transposed(CHUNK * widest_input()) {
    std::memset(dense_y, 0, s.F * row_size * sizeof(float));
  }

  int64_t widest_input() const {
    int64_t widest = 0;
    for (const auto& layer : s.layers) widest = std::max(widest, round_up(layer->in, VL));
    return widest;
  }

  // Gradients of a chunk of packed cells, from p on: of the weights into `partial`, of the perception into `grad_y`.
  void run(int p, int cells) {
    const int last = int(s.layers.size()) - 1;
    const auto input = [&](int i) {
      return i ? Cells<const float>{*units[i - 1], CHUNK} : Cells<const float>{packer.y + p, packer.S};
    };
    for (int i = 0; i < last; ++i)
      dense<Then::relu>(s.layers[i]->forward, s.layers[i]->bias, input(i), nullptr, {*units[i], CHUNK}, cells);
    for (int i = last; i >= 0; --i) {
      const Layer& layer = *s.layers[i];
      const auto grad = i == last ? Cells<const float>{*grads[i] + p, packer.S} : Cells<const float>{*grads[i], CHUNK};
      const int stride = round_up(layer.in, VL);
      transpose(input(i), layer.in, cells, transposed, stride);
      outer(grad, transposed, cells, layer.out, stride, *partial.weight[i]);
      if (layer.has_bias)
        for (int o = 0; o < layer.out; ++o) add_lanes(*partial.bias[i] + o * VL, grad.at + o * grad.stride, cells);
      if (i) dense<Then::gate>(layer.backward, nullptr, grad, *units[i - 1], {*grads[i - 1], CHUNK}, cells);
      else dense<Then::nothing>(layer.backward, nullptr, grad, nullptr, {grad_y + p, packer.S}, cells);
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
          packer.forget();
          for (int64_t row = group; row < group_end; ++row) pack_row(sample, row, grad + first, c0, c1);
          for (int p = 0; p < packer.count; p += CHUNK) run(p, std::min(CHUNK, packer.count - p));
          for (int64_t row = group; row < group_end; ++row) spread_row(sample, row, row - group, grad_x + first, r0, r1, c0, c1);
        }
      }
    });
  }

  void pack_row(int64_t sample, int64_t row, const float* grad, int64_t c0, int64_t c1) {
    const Blocks& batch = packer.pack_row(sample, row, 0);
    const float* g = grad + s.frozen * s.plane() + row * s.W + c0;
    float* packed = *grads.back();
    for (int64_t c = s.frozen; c < s.C; ++c, g += s.plane(), packed += packer.S)
      for (const Block& block : batch)
        append(packed + block.from, load_some(g + block.offset, c1 - c0 - block.offset), block.bits);
  }

  // Gradient of a profile at column q of the tile (and the VL - 1 after it), from that of the filters in dense_y.
  template <class T>
  T profile_grad(int profile, int64_t q) const {
    T total{};
    for (const Step::Use& use : s.uses[profile]) {
      const float* from = dense_y + use.filter * row_size + VL + q - use.shift;
      if constexpr (sizeof(T) == sizeof(float)) total += use.weight * *from;
      else total += use.weight * load(from);
    }
    return total;
  }

  // Adds what the perception of a row owes to the rows above, at and below it: the transposed filters.
  void spread_row(int64_t sample, int64_t row, int64_t in_group, float* grad_x, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
    float* target[3];  // of rows row - 1, row, row + 1: channel 0; null when outside of a canvas that is no torus
    int64_t plane[3];
    for (int i = 0; i < 3; ++i) {
      const int64_t to = s.wrap(row + i - 1);
      const bool lost = !s.circular && to != row + i - 1, own = to >= r0 && to < r1;
      target[i] = lost ? nullptr : own ? grad_x + to * s.W : partial.outside_row(s, sample, to);
      plane[i] = own ? s.plane() : s.W;
    }
    const int64_t before = c0 > 0 ? c0 - 1 : s.circular ? s.W - 1 : -1, after = c1 < s.W ? c1 : s.circular ? 0 : -1;
    const int64_t per_row = (c1 - c0 + VL - 1) / VL, width = c1 - c0;
    const Block *begin = packer.blocks.data() + in_group * per_row, *end = begin + per_row;
    for (int64_t c = 0; c < s.C; ++c) {
      for (int64_t f = 0; f < s.F; ++f) {
        const float* from = grad_y + (f * s.C + c) * packer.S;
        float* to = dense_y + f * row_size + VL;
        for (const Block* block = begin; block < end; ++block) store(to + block->offset, expanded(from + block->from, block->bits));
      }
      for (int64_t q = 0; q < width; q += VL) {  // gradient of the profiles around columns c0 + q ...
        const vf smooth = profile_grad<vf>(0, q), slope = profile_grad<vf>(1, q), cell = profile_grad<vf>(2, q);
        const vf owed[3] = {smooth - slope, 2 * smooth + cell, smooth + slope};
        for (int i = 0; i < 3; ++i)
          if (target[i]) add_some(target[i] + c * plane[i] + c0 + q, owed[i], width - q);
      }
      for (const auto [q, column] : {std::pair{int64_t(-1), before}, std::pair{width, after}}) {
        if (column < 0) continue;
        const float smooth = profile_grad<float>(0, q), slope = profile_grad<float>(1, q), cell = profile_grad<float>(2, q);
        const float owed[3] = {smooth - slope, 2 * smooth + cell, smooth + slope};
        for (int i = 0; i < 3; ++i)
          if (target[i]) target[i][c * plane[i] + column] += owed[i];
      }
    }
  }

  const Step& s;
  Partial& partial;
  const int64_t group_rows;
  Packer packer;
  const std::vector<std::unique_ptr<Buffer>> units, grads;  // of every layer: outputs, and gradients of the outputs
  const int64_t row_size;
  Buffer dense_y;  // gradient of one channel's filters along a row, [F][row_size], columns from VL on, zeros around
  Buffer grad_y;   // gradient of the packed cells' perception, [inputs][packer.S]
  Buffer transposed;
};

// --- the two operators ----------------------------------------------------------------------------------------------

// Asks for large pages before a tensor is first written: fewer page faults, and rows of many channels lie in many pages.
void prefer_large_pages(const at::Tensor& t) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr()), end = begin + t.nbytes();
  const uintptr_t first = (begin + PAGE - 1) / PAGE * PAGE, last = end / PAGE * PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may be refused
#endif
}

// states[j] = x after (j + 1) * every steps.
void advance(const at::Tensor& x, const at::Tensor& params, const at::Tensor& fire, const at::Tensor& stencils, at::IntArrayRef layers,
             int64_t frozen, bool circular, int64_t seed, int64_t origin_row, int64_t origin_column, int64_t first_sample,
             int64_t first_step, at::Tensor states, int64_t every) {
  Step s(x, params, fire, stencils, layers, frozen, circular, seed, origin_row, origin_column, first_sample);
  const int64_t size = x.numel(), steps = states.size(0) * every;
  const at::Tensor scratch = every > 1 ? at::empty_like(x) : at::Tensor();
  prefer_large_pages(states);
  if (scratch.defined()) prefer_large_pages(scratch);
  const float* from = x.data_ptr<float>();
  for (int64_t n = 0; n < steps; ++n) {
    s.step = uint32_t(first_step + n);
    float* state = states.data_ptr<float>() + n / every * size;
    float* to = (every - 1 - n % every) % 2 ? scratch.data_ptr<float>() : state;  // the last of `every` lands in states
    for_chunks(s, chunk_count(s), [&](int64_t, int64_t begin, int64_t end) { Forward(s, std::min(s.W, TILE)).rows(from, to, begin, end); });
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
      for (int64_t o = 0; layer.has_bias && o < layer.out; ++o) *at++ += sum_lanes(*partial->bias[i] + o * VL);
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
