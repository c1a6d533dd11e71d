// One step of a canvas as the kernels see it: the rule, the networks, the place in the canvas, and which cells fire.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "activations.h"
#include "filters.h"
#include "network.h"

namespace nca_fast {

constexpr int64_t TILE = 1024;  // columns of a tile of up to 64 channels: three rows of all channels stay in L2

enum class Padding { circular, zero, reflect, replicate };  // in the order of rollout.py, as the next
enum class AliveMask { both, before, after, update };
enum Shared { BATCH = 1, CHANNEL = 2, HEIGHT = 4, WIDTH = 8 };

// What the draws of a step depend on.
struct Draws {
  uint64_t seed;
  int64_t row0, canvas_height;
  uint32_t column0, sample0;
  int64_t W, shared;  // bits of the axes that share theirs
  uint32_t step = 0;
};

struct Step : Draws {
  Step(const Rule& rule, const Canvas& canvas)
      : Draws{uint64_t(canvas.seed), canvas.row, canvas.height, uint32_t(canvas.column), uint32_t(canvas.sample), canvas.W, rule.fire_shared},
        B(canvas.B), C(canvas.C), H(canvas.H), F(rule.filters), L(rule.learned), frozen(rule.frozen), padding(Padding(rule.padding)),
        circular(padding == Padding::circular), window(int(rule.window)), alive_channel(rule.alive_channel),
        alive_threshold(float(rule.alive_threshold)), alive_mask(AliveMask(rule.alive_mask)), alive_circular(rule.alive_circular),
        residual(rule.residual), clamps(rule.low > -HUGE_VAL || rule.high < HUGE_VAL), low(float(rule.low)), high(float(rule.high)),
        state_noise(float(rule.state_noise)), update_noise(float(rule.update_noise)), noise(canvas.noise), noise_samples(canvas.noise_samples),
        frames(canvas.frames), frame_samples(canvas.frame_samples), laplacians(rule.laplacians, rule.laplacians + rule.laplacian_count),
        by_channel(!(shared & CHANNEL) || canvas.fire_channels > 1), fire(canvas.fire), fire_map(canvas.fire_map), fire_periods(canvas.fire_periods),
        fire_samples(canvas.fire_samples), fire_channels(canvas.fire_channels), filters(rule), reach(std::max(filters.reach, window / 2)),
        tile(C > 64 ? std::max<int64_t>(64, TILE * 64 / C / 64 * 64) : TILE), parameters(parameter_count(rule)), periods(canvas.periods),
        rules(canvas.rules) {
    for (int64_t i = 0; i < rule.layers; ++i) activations.emplace_back(rule.activations[i]);
    for (int64_t i = 0; i < rule.pair_count; ++i) pairs.push_back({rule.pairs[2 * i], rule.pairs[2 * i + 1]});
    const float* at = canvas.networks;
    auto all = std::make_shared<std::vector<Network>>(periods * rules);
    const float* const seen = at + packed_size(rule) - C;  // the same for every network
    rows = rows_of_channels(seen, C, maps());
    seen_inputs = std::count(seen, seen + C, 1.f) * maps();
    for (Network& one : *all) {
      one.taps = at, at += tap_count(rule);
      for_layers(rule, [&](int64_t out, int64_t in, int64_t has_bias) {
        one.emplace_back(at, out, in, one.empty() ? seen_inputs : in, has_bias);
        at += Layer::size(out, in);
      });
      at += C;
    }
    networks = all;
  }

  const Network& shape() const { return networks->front(); }  // the same for every rule
  int64_t first_network() const { return step % periods * rules; }  // of this step
  const Network& network(int64_t sample) const { return (*networks)[first_network() + (rules > 1 ? sample : 0)]; }
  int inputs() const { return shape().front().in; }
  int64_t row(int64_t map, int64_t c) const { return rows[c].first + map * rows[c].apart; }  // of what is packed
  bool sees(int64_t c) const { return rows[c].first < seen_inputs; }  // whether any unit looks at a channel
  int64_t plane() const { return H * W; }
  int64_t written() const { return C - frozen; }
  int64_t maps() const { return F + L + (window > 0); }  // that a cell perceives of every channel
  bool beyond(int64_t i, int64_t size) const { return padding == Padding::zero && (i < 0 || i >= size); }  // where nothing is

  // The row or column, of `size`, that stands in the place of number i.
  int64_t source(int64_t i, int64_t size) const {
    switch (padding) {
      case Padding::reflect: i = size - 1 - std::abs(size - 1 - std::abs(i)); [[fallthrough]];
      case Padding::replicate: return std::clamp<int64_t>(i, 0, size - 1);
      default: return i >= 0 && i < size ? i : i < 0 && i + size >= 0 ? i + size : (i % size + size) % size;
    }
  }

  // The limit of the hash below which cells fire, in a row of a map; c counts the written channels.
  const int64_t* limits(int64_t sample, int64_t c, int64_t row) const {
    const int64_t period = step % fire_periods, s = fire_samples > 1 ? sample : 0, channel = fire_channels > 1 ? c : 0;
    return fire + (((period * fire_samples + s) * fire_channels + channel) * H + row) * W;
  }

  // Component 0 or 1 of the frames of a row.
  const float* frame_row(int64_t sample, int64_t component, int64_t row) const {
    return frames + (((frame_samples > 1 ? sample : 0) * 2 + component) * H + row) * W;
  }

  float noise_factor(int64_t sample) const { return noise[noise_samples > 1 ? sample : 0]; }

  vf clamped(vf v) const { return v < low ? splat(low) : v > high ? splat(high) : v; }  // NaN stays NaN

  int64_t B, C, H;
  int64_t F, L;  // filters that are fixed, and that are learned; the perception is theirs in this order, then the local maxima
  int64_t frozen;
  Padding padding;
  bool circular;
  int window;
  int64_t alive_channel;
  float alive_threshold;
  AliveMask alive_mask;
  bool alive_circular, residual, clamps;
  float low, high, state_noise, update_noise;
  const float* noise;
  int64_t noise_samples;
  const float* frames;  // null for none
  int64_t frame_samples;
  struct Pair { int64_t x, y; };
  std::vector<Pair> pairs;          // filters that frames turn,
  std::vector<int64_t> laplacians;  // and that they scale by the square
  bool by_channel;      // whether the channels of a cell do not all fire together
  const int64_t* fire;  // a cell fires when its hash is below: one number, or maps, see `limits`
  bool fire_map;
  int64_t fire_periods, fire_samples, fire_channels;
  Filters filters;
  int reach;     // rows to either side that a cell perceives
  int64_t tile;  // columns of a tile
  int64_t parameters, periods, rules;
  std::vector<Rows> rows;
  int64_t seen_inputs;
  std::shared_ptr<const std::vector<Network>> networks;  // [periods][rules]; copies of a step share them
  std::vector<Applied> activations;
};

struct RowKey { uint32_t k0, k1, k2, k3; };

inline RowKey philox_row_key(const Draws& s, int64_t sample, int64_t row, int64_t shared = 0) {  // Philox4x32-10, see nca_fast/fire_masks.py
  uint32_t c0 = shared & HEIGHT ? 0 : uint32_t((s.row0 + row) % s.canvas_height), c1 = shared & BATCH ? 0 : s.sample0 + uint32_t(sample);
  uint32_t c2 = s.step, c3 = 0;
  uint32_t k0 = uint32_t(s.seed), k1 = uint32_t(s.seed >> 32);
  for (int i = 0; i < 10; ++i) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0, c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1), c3 = uint32_t(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

constexpr uint32_t GOLDEN = 0x9E3779B9u;

template <class Word>  // of a vector, or of a single column
inline Word hashed(Word column, uint32_t lane, uint32_t add, uint32_t flip) {
  Word z = (column + lane * GOLDEN) * GOLDEN + add;
  z ^= z >> 16, z *= 0x21F0AAADu, z ^= z >> 15, z *= 0x735A2D97u, z ^= z >> 15, z ^= flip;
  return z;
}

template <class Word>
inline Word ones_of(Word v) {
  v = v - (v >> 1 & 0x55555555u);
  v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
  return (((v + (v >> 4)) & 0x0F0F0F0Fu) * 0x01010101u) >> 24;
}

// The number of nca_fast/normals.py times 65536 sqrt(16 + 1/6), of channel c; wraps around.
template <class Word>
inline Word normal_integer(const Step& s, RowKey key, Word column, int64_t c, bool of_update) {
  const uint32_t lane = uint32_t(3 * (c + (of_update ? s.C : 0)));
  const Word a = hashed(column, lane, key.k2, key.k3), b = hashed(column, lane + 1, key.k2, key.k3), w = hashed(column, lane + 2, key.k2, key.k3);
  return (ones_of(a) + ones_of(b) - 32u) * 65536u + (w & 0xFFFFu) - (w >> 16);
}

constexpr float NORMAL = float(1 / (65536 * 4.02077936060494));  // sqrt(16 + 1/6)

// The numbers of VL neighbouring columns, as the draws know them; a row that goes around goes on at its other end.
inline vu columns_from(const Draws& s, int64_t column) {
  vu at = lane_numbers() + uint32_t(column);
  if (column + VL > s.W) at = at >= uint32_t(s.W) ? at - uint32_t(s.W) : at;
  return at + s.column0;
}

// What is added to channel c in the columns from `column` on.
inline vf noise_of(const Step& s, RowKey key, int64_t sample, int64_t column, int64_t c, bool of_update) {
  const vu at = columns_from(s, column);
  const vf e = __builtin_convertvector((vi)normal_integer(s, key, at, c, of_update), vf) * NORMAL;
  return e * (of_update ? s.update_noise : s.state_noise) * s.noise_factor(sample);
}

inline float noise_of_cell(const Step& s, RowKey key, int64_t sample, int64_t column, int64_t c) {
  const float e = float(int32_t(normal_integer(s, key, s.column0 + uint32_t(column), c, false))) * NORMAL;
  return e * s.state_noise * s.noise_factor(sample);
}

// The hashes of VL cells from `column` on, of a lane.
inline vu fire_hashes(const Draws& s, RowKey key, int64_t column, int64_t lane) {
  return hashed(s.shared & WIDTH ? vu{} : columns_from(s, column), s.shared & CHANNEL ? 0 : uint32_t(lane), key.k0, key.k1);
}

// One bit per lane for the cells of columns column .. column + min(VL, left) - 1 that fire; c counts the written channels.
inline uint32_t fire_bits(const Step& s, RowKey key, int64_t sample, int64_t row, int64_t column, int64_t left, int64_t c = 0) {
  const vu z = fire_hashes(s, key, column, s.frozen + c);
  uint32_t bits = 0;
  if (s.fire_map) {
    const int64_t* limit = s.limits(sample, c, row);
    for (int i = 0; i < std::min<int64_t>(VL, left); ++i) bits |= uint32_t(int64_t(z[i]) < limit[(column + i) % s.W]) << i;
    return bits;
  }
  bits = *s.fire > 0 ? lanes_at_most(z, uint32_t(*s.fire - 1)) : 0;
  return left < VL ? bits & ((1u << left) - 1) : bits;
}

// The same for cells of which any channel fires; with `each`, that of every written channel goes there.
inline uint32_t any_fire_bits(const Step& s, RowKey key, int64_t sample, int64_t row, int64_t column, int64_t left, uint32_t* each = nullptr) {
  if (!s.by_channel) return fire_bits(s, key, sample, row, column, left);
  uint32_t any = 0;
  for (int64_t c = 0; c < s.written(); ++c) {
    const uint32_t bits = fire_bits(s, key, sample, row, column, left, c);
    any |= bits;
    if (each) each[c] = bits;
  }
  return any;
}

}  // namespace nca_fast
