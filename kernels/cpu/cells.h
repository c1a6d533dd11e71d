// Sets of cells for who asks between steps, a byte for each: who fires, and who is alive.
#pragma once

#include "bits.h"
#include "step.h"
#include "threads.h"

namespace nca_fast {

inline void put_bytes(uint64_t bits, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = bits >> i & 1;
}

// visit(i) for 0 <= i < n, in parallel where there are so many cells that it pays.
template <class Visit>
void for_parts(int64_t n, int64_t cells, const Visit& visit) {
  if (cells >= 1 << 15) return parallel_for(n, visit);
  for (int64_t i = 0; i < n; ++i) visit(i);
}

// Whether the hash is below `limit`: [samples][lanes][rows][draws.W], of lanes from `first` on.
inline void fire_mask(const Draws& draws, int64_t samples, int64_t lanes, int64_t first, int64_t rows, int64_t limit, uint8_t* fires) {
  for_parts(samples * rows, samples * lanes * rows * draws.W, [&](int64_t i) {
    const int64_t sample = i / rows, row = i % rows;
    const RowKey key = philox_row_key(draws, sample, row, draws.shared);
    for (int64_t lane = 0; lane < lanes; ++lane)
      for (int64_t column = 0; column < draws.W; column += VL) {
        const uint32_t bits = limit > 0 ? lanes_at_most(fire_hashes(draws, key, column, first + lane), uint32_t(limit - 1)) : 0;
        put_bytes(bits, std::min<int64_t>(VL, draws.W - column), fires + ((sample * lanes + lane) * rows + row) * draws.W + column);
      }
  });
}

// Whether any of 3x3 is above the threshold, of samples that are so far apart: [samples][H][W]. Returns false, and leaves
// it unsaid, where one is NaN.
inline bool alive(const float* alpha, int64_t apart, int64_t samples, int64_t H, int64_t W, float threshold, bool circular, uint8_t* alive) {
  std::vector<char> broken(samples, false);
  for_parts(samples, samples * H * W, [&](int64_t sample) {
    Bits near(1, H, W);
    std::vector<uint64_t> live(near.data.size());
    vi is_nan{};
    for (int64_t row = 0; row < H; ++row)
      for (int64_t column = 0; column < W; column += VL) {
        const vf v = load_some(alpha + sample * apart + row * W + column, W - column);
        is_nan |= v != v;
        const uint32_t bits = lanes_above(v, threshold) & uint32_t((uint64_t(1) << std::min<int64_t>(VL, W - column)) - 1);
        live[row * near.words + column / 64] |= uint64_t(bits) << column % 64;
      }
    for (int i = 0; i < VL; ++i) broken[sample] |= is_nan[i] != 0;
    dilate(near, live.data(), near.row(0, 0), circular);
    for (int64_t row = 0; row < H; ++row)
      for (int64_t column = 0; column < W; column += 64)
        put_bytes(near.row(0, row)[column / 64], std::min<int64_t>(64, W - column), alive + (sample * H + row) * W + column);
  });
  return std::find(broken.begin(), broken.end(), true) == broken.end();
}

}  // namespace nca_fast
