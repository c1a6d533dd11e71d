// One step of a canvas as the kernels see it: the rule, the networks, the place in the canvas, and which cells fire.
#pragma once

#include <algorithm>
#include <vector>

#include "filters.h"
#include "network.h"

namespace nca_fast {

constexpr int64_t TILE = 1024;  // columns of a tile: three rows of all channels stay in L2

struct Step {
  Step(const Rule& rule, const Canvas& canvas)
      : B(canvas.B), C(canvas.C), H(canvas.H), W(canvas.W), F(rule.filters), frozen(rule.frozen), circular(rule.circular),
        window(int(rule.window)), alive_channel(rule.alive_channel), alive_threshold(float(rule.alive_threshold)), seed(canvas.seed),
        canvas_height(canvas.height), row0(canvas.row), column0(canvas.column), sample0(canvas.sample), fire(canvas.fire), fire_map(canvas.fire_map),
        filters(rule), reach(std::max(filters.reach, window / 2)), parameters(parameter_count(rule)), rules(canvas.rules) {
    const float* at = canvas.networks;
    for (int64_t n = 0; n < rules; ++n) {
      networks.emplace_back();
      for_layers(rule, [&](int64_t out, int64_t in, int64_t has_bias) {
        networks.back().emplace_back(at, out, in, has_bias);
        at += Layer::size(out, in);
      });
    }
  }

  const Network& shape() const { return networks.front(); }  // the same for every rule
  const Network& network(int64_t sample) const { return networks[rules > 1 ? sample : 0]; }
  int inputs() const { return shape().front().in; }
  int64_t plane() const { return H * W; }
  int64_t wrap(int64_t row) const { return (row % H + H) % H; }
  int64_t wrap_column(int64_t column) const { return (column % W + W) % W; }

  int64_t B, C, H, W, F, frozen;
  bool circular;
  int window;
  int64_t alive_channel;
  float alive_threshold;
  uint64_t seed;
  int64_t canvas_height, row0;
  uint32_t column0, sample0;
  uint32_t step = 0;
  const int64_t* fire;  // a cell fires when its hash is below: one number, or a map [H][W]
  bool fire_map;
  Filters filters;
  int reach;  // rows to either side that a cell perceives
  int64_t parameters, rules;
  std::vector<Network> networks;  // one, or one for each sample
};

struct RowKey { uint32_t k0, k1; };

inline RowKey philox_row_key(const Step& s, int64_t sample, int64_t row) {  // Philox4x32-10, see nca_fast/fire_masks.py
  uint32_t c0 = uint32_t((s.row0 + row) % s.canvas_height), c1 = s.sample0 + uint32_t(sample), c2 = s.step, c3 = 0;
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

}  // namespace nca_fast
