// The alive mask: a cell whose neighbourhood was dead before or is dead after the update becomes 0; or by one of them, or
// what was dead before is not updated.
//
//     alive(x) = maximum of the alive channel over 3x3 > threshold        x' = (x + m u) (alive(x) and alive(x + m u))
//
// What becomes 0 need not be computed, but where the update of a dead cell decides whether its neighbour lives. A cell
// that was alive before is alive after for certain when a neighbour does not fire and is above the threshold; only around
// the others, of which there are few inside of what has grown, must the update be known before the mask is.
#pragma once

#include "bits.h"
#include "step.h"

namespace nca_fast {

struct Alive {
  explicit Alive(const Step& s) : s(s), before(s.B, s.H, s.W), compute(s.B, s.H, s.W), mask(s.B, s.H, s.W) {}

  // Before a step of a sample from x: who was alive, and in `compute` what to compute. With `deciding`, only what decides on
  // the mask. That of the step before stays.
  void before_step(const float* x, int64_t sample, bool deciding) {
    uint64_t *const was = before.row(sample, 0), *const some = compute.row(sample, 0);
    const int64_t size = s.H * before.words;
    if (s.alive_mask == AliveMask::after) return (void)std::fill_n(some, size, ~uint64_t(0));  // all may live
    std::vector<uint64_t> live(size), still(size), certain(size);
    above(x, sample, live.data());
    dilate(before, live.data(), was, s.alive_circular);
    if (s.alive_mask != AliveMask::both) return (void)std::copy_n(was, size, some);
    if (s.state_noise == 0) {  // or nothing stays as it is
      keep_still(sample, live.data(), still.data());
      dilate(before, still.data(), certain.data(), s.alive_circular);
    }
    std::vector<uint64_t> undecided(size);
    if (s.alive_channel >= s.frozen)
      for (int64_t i = 0; i < size; ++i) undecided[i] = was[i] & ~certain[i];
    dilate(before, undecided.data(), some, s.alive_circular);
    for (int64_t i = 0; !deciding && i < size; ++i) some[i] |= was[i];
  }

  // After what to compute of a sample was updated: the mask.
  void after_step(const float* updated, int64_t sample) {
    uint64_t *const was = before.row(sample, 0), *const living = mask.row(sample, 0);
    const int64_t size = s.H * before.words;
    if (!looks_after()) return (void)std::copy_n(was, size, living);
    std::vector<uint64_t> live(size);
    above(updated, sample, live.data());
    dilate(before, live.data(), living, s.alive_circular);
    for (int64_t i = 0; s.alive_mask == AliveMask::both && i < size; ++i) living[i] &= was[i];
  }

  // Whether the mask hangs on the updates.
  bool looks_after() const { return s.alive_mask == AliveMask::both || s.alive_mask == AliveMask::after; }

  // Multiplies the written channels of a row by the mask; a value that blew up stays NaN, as in the reference.
  void apply_mask(float* state, int64_t sample, int64_t row) const {
    if (s.alive_mask == AliveMask::update) return;
    float* at = state + (sample * s.C + s.frozen) * s.plane() + row * s.W;
    for (int64_t column = 0; column < s.W; column += VL) {
      const int64_t left = s.W - column;
      const uint32_t all = (1u << std::min<int64_t>(left, VL)) - 1, alive = mask.block(sample, row, column) & all;
      if (alive == all) continue;
      const vf factor = ones(alive);
      for (int64_t c = s.frozen; c < s.C; ++c) {
        float* to = at + (c - s.frozen) * s.plane() + column;
        store_some(to, load_some(to, left) * factor, left);
      }
    }
  }

  // Cells of a sample whose alive channel is above the threshold.
  void above(const float* x, int64_t sample, uint64_t* set) const {
    const float* plane = x + (sample * s.C + s.alive_channel) * s.plane();
    for (int64_t row = 0; row < s.H; ++row, set += before.words) {
      for (int64_t column = 0; column < s.W; column += VL)
        set[column / 64] |= uint64_t(lanes_above(load_some(plane + row * s.W + column, s.W - column), s.alive_threshold)) << column % 64;
      set[before.words - 1] &= before.valid(before.words - 1);
    }
  }

  // Those of the cells of a sample that do not fire.
  void keep_still(int64_t sample, const uint64_t* live, uint64_t* still) const {
    std::copy_n(live, s.H * before.words, still);
    for (int64_t row = 0; row < s.H; ++row, still += before.words) {
      const RowKey key = philox_row_key(s, sample, row, s.shared);
      for (int64_t column = 0; column < s.W; column += VL) {
        const uint32_t bits = fire_bits(s, key, sample, row, column, s.W - column, std::max<int64_t>(s.alive_channel - s.frozen, 0));
        still[column / 64] &= ~(uint64_t(bits) << column % 64);
      }
    }
  }

  const Step& s;
  Bits before, compute, mask;
};

}  // namespace nca_fast
