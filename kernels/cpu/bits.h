// Sets of cells as bits: 64 cells of a row in a word.
#pragma once

#include <cstdint>
#include <vector>

namespace nca_fast {

struct Bits {
  Bits(int64_t samples, int64_t H, int64_t W) : H(H), W(W), words((W + 63) / 64), data(samples * H * words) {}

  uint64_t* row(int64_t sample, int64_t row) { return data.data() + (sample * H + row) * words; }
  const uint64_t* row(int64_t sample, int64_t row) const { return data.data() + (sample * H + row) * words; }

  // The cells of a row from `column` on, a multiple of a power of two that holds no fewer than the bits that are looked at.
  uint32_t block(int64_t sample, int64_t row_number, int64_t column) const {
    return uint32_t(row(sample, row_number)[column / 64] >> column % 64);
  }

  // The bits of word i that are cells of the canvas.
  uint64_t valid(int64_t i) const { return i + 1 < words || W % 64 == 0 ? ~uint64_t(0) : (uint64_t(1) << W % 64) - 1; }

  int64_t H, W, words;
  std::vector<uint64_t> data;
};

// Of one sample, the cells that have one of `from` in the 3x3 around them.
inline void dilate(const Bits& canvas, const uint64_t* from, uint64_t* to, bool circular) {
  const int64_t words = canvas.words, end = canvas.W - 1;
  std::vector<uint64_t> wide(canvas.H * words);  // by row alone
  for (int64_t row = 0; row < canvas.H; ++row) {
    const uint64_t* in = from + row * words;
    uint64_t* out = wide.data() + row * words;
    for (int64_t i = 0; i < words; ++i) {
      const uint64_t before = i ? in[i - 1] >> 63 : 0, after = i + 1 < words ? in[i + 1] << 63 : 0;
      out[i] = (in[i] | in[i] << 1 | before | in[i] >> 1 | after) & canvas.valid(i);
    }
    if (!circular) continue;
    out[0] |= in[end / 64] >> end % 64 & 1;
    out[end / 64] |= (in[0] & 1) << end % 64;
  }
  for (int64_t row = 0; row < canvas.H; ++row) {
    const int64_t above = row ? row - 1 : circular ? canvas.H - 1 : row, below = row + 1 < canvas.H ? row + 1 : circular ? 0 : row;
    for (int64_t i = 0; i < words; ++i) to[row * words + i] = wide[above * words + i] | wide[row * words + i] | wide[below * words + i];
  }
}

}  // namespace nca_fast
