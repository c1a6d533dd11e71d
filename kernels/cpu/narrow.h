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
      if (!in_column) continue;
      const int64_t at = i + column - 1;
      const vf a = load(above + at), b = load(here + at), c = load(below + at);
      if (in_column & 1) slots[0] = (a + c) + 2 * b;
      if (in_column & 2) slots[1] = c - a;
      if (in_column & 4) slots[2] = b;
      if (in_column & 8) slots[3] = a;
      if (in_column & 16) slots[4] = c;
    }
  }

  // What tap k of 3x3 multiplies, row by row, of the cell in column 0.
  const float* tap(int k) const { return (k < 3 ? above : k < 6 ? here : below) + k % 3 - 1; }

  const float *above, *here, *below;
};

// The sum of the slots in MASK, with their weights.
template <uint32_t MASK, class Weight>
inline vf weighted(const vf* slots, const Weight* weights) {
  vf total{};
  bool is_first = true;
#pragma GCC unroll 15
  for (int bit = 0; bit < SLOTS; ++bit)
    if (MASK >> bit & 1) {
      total = is_first ? *weights * slots[bit] : total + *weights * slots[bit];
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

// What the three rows of a column are owed by its profiles.
inline void owed_to_profiles(const vf* profiles, vf* rows) {
  const vf smooth = profiles[0], slope = profiles[1], cell = profiles[2], above = profiles[3], below = profiles[4];
  rows[0] = smooth - slope + above, rows[1] = 2 * smooth + cell, rows[2] = smooth + slope + below;
}

}  // namespace nca_fast
