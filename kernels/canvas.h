// One step of a canvas up to the network: which cells fire, and what those perceive, packed.
#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <vector>

#include "network.h"

namespace nca_fast {

constexpr int64_t TILE = 1024;  // columns of a tile: three rows of all channels stay in L2

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
        fire_map(fire.dim() == 2) {
    const float* at = params.data_ptr<float>();
    for (size_t i = 0; i < shapes.size(); i += 3) {
      const int64_t out = shapes[i], in = shapes[i + 1];
      layers.push_back(std::make_unique<Layer>(at, shapes[i + 2] ? at + out * in : nullptr, out, in));
      at += out * in + (shapes[i + 2] ? out : 0);
    }
    for (int64_t f = 0; f < F; ++f) {
      filters.emplace_back(stencils.data_ptr<float>() + 9 * f);
      for (int i = 0; i < filters[f].count; ++i) {
        const Correlation::Term& term = filters[f].terms[i];
        uses[term.profile].push_back({f, term.shift, term.weight});
      }
    }
  }

  int inputs() const { return layers.front()->in; }
  int64_t parameters() const {
    int64_t n = 0;
    for (const auto& layer : layers) n += int64_t(layer->out) * layer->in + (layer->has_bias ? layer->out : 0);
    return n;
  }
  int64_t plane() const { return H * W; }
  int64_t wrap(int64_t row) const { return row < 0 ? row + H : row >= H ? row - H : row; }

  int64_t B, C, H, W, F, frozen;
  bool circular;
  uint64_t seed;
  uint32_t row0, column0, sample0;
  uint32_t step = 0;
  const int64_t* fire;  // a cell fires when its hash is below: one number, or a map [H][W]
  bool fire_map;
  std::vector<Correlation> filters;
  struct Use { int64_t filter; int shift; float weight; };
  std::vector<Use> uses[3];  // the terms of all filters, by profile
  std::vector<std::unique_ptr<Layer>> layers;
};

struct RowKey { uint32_t k0, k1; };

inline RowKey philox_row_key(const Step& s, int64_t sample, int64_t row) {  // Philox4x32-10, see nca_fast/fire_mask.py
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
inline uint32_t fire_bits(const Step& s, RowKey key, int64_t row, int64_t column, int64_t left) {
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

  // Packs the firing cells of a row behind those that are left over. `offset` is that of the row's first cell; with
  // `all`, blocks in which no cell fires are kept too, so that every block of the row has its place.
  const Blocks& pack_row(int64_t sample, int64_t row, int64_t offset, bool all) {
    copy_row(row + 1);
    const RowKey key = philox_row_key(s, sample, row);
    batch.clear();
    for (int64_t at = 0; at < width; at += VL) {
      const uint32_t bits = fire_bits(s, key, row, left + at, width - at);
      if (bits || all) blocks.push_back({offset + at, bits, count});
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

}  // namespace nca_fast
