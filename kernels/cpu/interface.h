// What the library is told, in plain C: one library serves every version of Python and of PyTorch. library.py has the
// same structures, field by field.
#pragma once

#include <cstdint>

namespace nca_fast {

// The static description of a rule.
struct Rule {
  const float* stencils;  // [filters][size][size]
  int64_t filters, size;
  const int64_t* shapes;  // (out, in, has bias) of every layer
  int64_t layers;
  int64_t frozen, circular;
  int64_t window;         // 0 for no local maximum
  int64_t alive_channel;  // below 0 for no alive mask
  double alive_threshold;
};

// The states of a call, [B][C][H][W], what runs on them and where they are.
struct Canvas {
  int64_t B, C, H, W;
  const float* networks;  // as `pack` packs them
  int64_t rules;          // 1, or B
  const int64_t* fire;    // a cell fires when its hash is below: one number, or a map [H][W]
  int64_t fire_map;
  int64_t seed, row, column, sample, height;  // of the first cell, in the whole canvas and batch; rows of that canvas
};

}  // namespace nca_fast
