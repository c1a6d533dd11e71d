// What the library is told, in plain C: one library serves every version of Python and of PyTorch. library.py has the
// same structures, field by field.
#pragma once

#include <cstdint>

namespace nca_fast {

struct Activation {
  int64_t function;  // see activations.h
  double parameter, divisor;
};

// The static description of a rule.
struct Rule {
  const float* stencils;  // [filters][size][size]
  int64_t filters, size;
  int64_t learned;        // filters of 3x3 that come after those, whose kernels lead the parameters: [learned][channels][9]
  const int64_t* shapes;  // (out, in, has bias) of every layer
  int64_t layers;
  const Activation* activations;  // of every layer
  int64_t frozen;
  int64_t padding;        // 0 circular, 1 zero, 2 reflect, 3 replicate
  int64_t window;         // 0 for no local maximum
  int64_t alive_channel;  // below 0 for no alive mask
  double alive_threshold;
  int64_t alive_mask;     // 0 both, 1 before, 2 after, 3 update
  int64_t alive_circular;
  int64_t fire_shared;    // bits of the axes that share their draws: 1 batch, 2 channel, 4 height, 8 width
  int64_t residual;
  double low, high;       // of the clamp; infinite for none
  double state_noise, update_noise;
  const int64_t* pairs;       // filters that are first derivatives along x and y, two numbers for each of them
  int64_t pair_count;
  const int64_t* laplacians;  // filters that are those
  int64_t laplacian_count;
};

// The states of a call, [B][C][H][W], what runs on them and where they are.
struct Canvas {
  int64_t B, C, H, W;
  const float* networks;  // as `pack` packs them, [periods][rules]
  int64_t periods, rules; // rules: 1, or B
  const int64_t* fire;    // a cell fires when its hash is below: one number, or [periods][samples][channels][H][W]
  int64_t fire_map, fire_periods, fire_samples, fire_channels;
  const float* noise;     // factors of the rule's noise: [noise_samples], 1 or B
  int64_t noise_samples;
  int64_t seed, row, column, sample, height;  // of the first cell, in the whole canvas and batch; rows of that canvas
  const float* frames;    // [frame_samples][2][H][W], 1 or B; null for none
  int64_t frame_samples;
};

// Where and when a fire mask is drawn: as in Canvas, and the step.
struct Draw {
  int64_t seed, row, column, sample, height;
  int64_t shared, step;
};

}  // namespace nca_fast
