// Filters of 3x3 in registers: five profiles of a column, of the cell's own column and of those beside it, in 15 slots.
//
//     smooth = a + 2 b + c        slope = c - a        cell = b        above = a        below = c        for a column (a, b, c)
//
// A filter is a sum of slots; which ones, the bits of its mask say: 1 << PROFILES * column + profile.
#pragma once

#include <cstdint>

#include "simd.h"

namespace nca_fast {

constexpr int PROFILES = 5, SLOTS = 3 * PROFILES;

enum Terms : uint32_t {  // of the usual filters
  CELL = 1 << 7,
  DIFFERENCE_X = 1 << 0 | 1 << 10,
  DIFFERENCE_Y = 1 << 1 | 1 << 6 | 1 << 11,
  LAPLACIAN = 1 << 0 | 1 << 5 | 1 << 7 | 1 << 10,
};

// The weight of a term where the usual filters are not scaled.
constexpr float usual_weight(uint32_t filter, int slot) {
  if (filter == DIFFERENCE_X && slot == 0) return -1;
  if (filter == LAPLACIAN && slot == 7) return -16;
  return (filter == DIFFERENCE_Y && slot == 6) || (filter == LAPLACIAN && slot == 5) ? 2 : 1;
}

enum class Known { no, gradient, gradient_and_laplacian };  // filters of a rule for which there is code of its own

// Three rows of a channel.
struct Narrow {
  Narrow(const float* const* around, int64_t channel) : above(around[-1] + channel), here(around[0] + channel), below(around[1] + channel) {}

  // Fills the slots in USED, of which those in `used` are looked at, for VL cells from column i on.
  template <uint32_t USED>
  void fill(int64_t i, vf* slots, uint32_t used = USED) const {
#pragma GCC unroll 3
    for (int column = 0; column < 3; ++column, slots += PROFILES) {
      const uint32_t in_column = (used & USED) >> PROFILES * column & ((1 << PROFILES) - 1);
      if (in_column) fill_column(i + column - 1, slots, in_column);
    }
  }

  // The profiles in `used` of the columns from i on alone.
  void fill_column(int64_t i, vf* profiles, uint32_t used) const {
    const vf a = load(above + i), b = load(here + i), c = load(below + i);
    if (used & 1) profiles[0] = (a + c) + 2 * b;
    if (used & 2) profiles[1] = c - a;
    if (used & 4) profiles[2] = b;
    if (used & 8) profiles[3] = a;
    if (used & 16) profiles[4] = c;
  }

  // What tap k of 3x3 multiplies, row by row, of the cell in column 0.
  const float* tap(int k) const { return (k < 3 ? above : k < 6 ? here : below) + k % 3 - 1; }

  const float *above, *here, *below;
};

#if defined(__AVX512F__)
// Fills the slots in USED for one VL columns after the other. Of neighbouring ones each is loaded once, and what lies beside
// them is moved between registers: loads that take from two lines of the cache cost half as much again.
template <uint32_t USED>
struct NarrowWindow {
  explicit NarrowWindow(Narrow rows) : rows(rows) {}

  void fill(int64_t i, vf* slots) {
    if (i != next) near[1] = column(i - VL), near[2] = column(i);
    near[0] = near[1], near[1] = near[2], near[2] = column(i + VL), next = i + VL;
    const auto both = [&](int profile, vf Column::*of) NCA_FAST_WITHIN {
      slots[profile] = shifted<VL - 1>(near[0].*of, near[1].*of), slots[PROFILES + profile] = near[1].*of;
      slots[2 * PROFILES + profile] = shifted<1>(near[1].*of, near[2].*of);
    };
    if (USED >> 0 & 1) both(0, &Column::smooth);
    if (USED >> 1 & 1) both(1, &Column::slope);
    slots[PROFILES + 2] = near[1].cell;
  }

 private:
  struct Column { vf smooth, slope, cell; };

  Column column(int64_t i) const {
    vf slots[PROFILES];
    rows.fill_column(i, slots, 7);
    return {slots[0], slots[1], slots[2]};
  }

  const Narrow rows;
  Column near[3];
  int64_t next = -1;
};
#else
template <uint32_t USED>
struct NarrowWindow {
  explicit NarrowWindow(Narrow rows) : rows(rows) {}
  void fill(int64_t i, vf* slots) const { rows.fill<USED>(i, slots); }
  const Narrow rows;
};
#endif

// The sum of the slots in MASK, with their weights, or the usual ones.
template <uint32_t MASK, bool USUAL>
inline vf weighted(const vf* slots, const vf* weights) {
  vf total{};
  bool is_first = true;
#pragma GCC unroll 15
  for (int bit = 0; bit < SLOTS; ++bit)
    if (MASK >> bit & 1) {
      const vf term = USUAL ? usual_weight(MASK, bit) * slots[bit] : *weights * slots[bit];
      total = is_first ? term : total + term;
      is_first = false, ++weights;
    }
  return total;
}

// Adds to the gradients of a column's profiles what a filter with the terms MASK owes them; the filter's own lies at `grad`.
template <uint32_t MASK>
inline void add_profiles(const float* grad, const float* weights, vf* profiles) {
#pragma GCC unroll 15
  for (int bit = 0; bit < SLOTS; ++bit)
    if (MASK >> bit & 1) profiles[bit % PROFILES] += *weights++ * load(grad + 1 - bit / PROFILES);
}

#if defined(__AVX512F__)
// The same where the filter's gradient is in registers, with those of the VL cells before and after.
template <uint32_t MASK>
inline void add_profiles(const vf (&near)[3], const float* weights, vf* profiles) {
  const vf of_column[3] = {shifted<1>(near[1], near[2]), near[1], shifted<VL - 1>(near[0], near[1])};
#pragma GCC unroll 15
  for (int bit = 0; bit < SLOTS; ++bit)
    if (MASK >> bit & 1) profiles[bit % PROFILES] += *weights++ * of_column[bit / PROFILES];
}
#endif

// What the three rows of a column are owed by its profiles.
inline void owed_to_profiles(const vf* profiles, vf* rows) {
  const vf smooth = profiles[0], slope = profiles[1], cell = profiles[2], above = profiles[3], below = profiles[4];
  rows[0] = smooth - slope + above, rows[1] = 2 * smooth + cell, rows[2] = smooth + slope + below;
}

}  // namespace nca_fast
