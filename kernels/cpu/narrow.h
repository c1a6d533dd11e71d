// Filters of 3x3 in registers: three profiles of a column, of the cell's own column and of those beside it, in nine slots.
//
//     smooth = a + 2 b + c        slope = c - a        cell = b        for a column (a, b, c)
//
// A filter is a sum of slots; which ones, the bits of its mask say: 1 << 3 * column + profile.
#pragma once

#include <cstdint>

#include "simd.h"

namespace nca_fast {

enum Terms : uint32_t {  // of the usual filters
  CELL = 1 << 5,
  DIFFERENCE_X = 1 << 0 | 1 << 6,
  DIFFERENCE_Y = 1 << 1 | 1 << 4 | 1 << 7,
  LAPLACIAN = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 6,
};

enum class Known { no, gradient, gradient_and_laplacian };  // filters of a rule for which there is code of its own

// Three rows of a channel.
struct Narrow {
  Narrow(const float* const* around, int64_t channel) : above(around[-1] + channel), here(around[0] + channel), below(around[1] + channel) {}

  // Fills the slots in USED for VL cells from column i on.
  template <uint32_t USED>
  void fill(int64_t i, vf* slots) const {
#pragma GCC unroll 3
    for (int column = 0; column < 3; ++column, slots += 3) {
      const uint32_t used = USED >> 3 * column & 7;
      if (!used) continue;
      const int64_t at = i + column - 1;
      if (used & 3) {
        const vf a = load(above + at), c = load(below + at);
        if (used & 1) slots[0] = (a + c) + 2 * load(here + at);
        if (used & 2) slots[1] = c - a;
      }
      if (used & 4) slots[2] = load(here + at);
    }
  }

  const float *above, *here, *below;
};

// The sum of the slots in MASK, with their weights.
template <uint32_t MASK>
inline vf weighted(const vf* slots, const float* weights) {
  vf total{};
  bool is_first = true;
#pragma GCC unroll 9
  for (int bit = 0; bit < 9; ++bit)
    if (MASK >> bit & 1) {
      total = is_first ? *weights * slots[bit] : total + *weights * slots[bit];
      is_first = false, ++weights;
    }
  return total;
}

// Adds to the gradients of a column's profiles what a filter with the terms MASK owes them; the filter's own lies at `grad`.
template <uint32_t MASK>
inline void add_profiles(const float* grad, const float* weights, vf* profiles) {
#pragma GCC unroll 9
  for (int bit = 0; bit < 9; ++bit)
    if (MASK >> bit & 1) profiles[bit % 3] += *weights++ * load(grad + 1 - bit / 3);
}

// What the three rows of a column are owed by its profiles.
inline void owed_to_profiles(const vf* profiles, vf* rows) {
  rows[0] = profiles[0] - profiles[1], rows[1] = 2 * profiles[0] + profiles[2], rows[2] = profiles[0] + profiles[1];
}

}  // namespace nca_fast
