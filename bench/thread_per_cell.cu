// One step of the texture automaton as one would write it first: a thread per cell, float32, nothing shared but the
// weights. A baseline, not a part of the package.
#include <cstdint>

constexpr int C = 12, H1 = 96;

__global__ void step(const float *x, float *out, const float *w1, const float *b1, const float *w2, const int *keys,
                     unsigned long long below, int H, int W) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, sample = blockIdx.z;
  if (column >= W) return;
  const long plane = static_cast<long>(H) * W;
  x += sample * C * plane;
  out += sample * C * plane;
  const long rows[3] = {long((row + H - 1) % H) * W, long(row) * W, long((row + 1) % H) * W};
  const int columns[3] = {(column + W - 1) % W, column, (column + 1) % W};
  const int *key = keys + 2 * (sample * H + row);
  uint32_t z = uint32_t(column) * 0x9E3779B9u + uint32_t(key[0]);
  z ^= z >> 16;
  z *= 0x21F0AAADu;
  z ^= z >> 15;
  z *= 0x735A2D97u;
  z ^= z >> 15;
  z ^= uint32_t(key[1]);
  const bool fires = z < below;
  float y[4 * C], u[C] = {};
  for (int c = 0; c < C; ++c) {
    float v[3][3];
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) v[i][j] = x[c * plane + rows[i] + columns[j]];
    y[c] = v[1][1];
    y[C + c] = v[0][2] - v[0][0] + 2 * (v[1][2] - v[1][0]) + v[2][2] - v[2][0];
    y[2 * C + c] = v[2][0] - v[0][0] + 2 * (v[2][1] - v[0][1]) + v[2][2] - v[0][2];
    y[3 * C + c] = v[0][0] + v[0][2] + v[2][0] + v[2][2] + 2 * (v[0][1] + v[1][0] + v[1][2] + v[2][1]) - 12 * v[1][1];
  }
  if (fires)
    for (int h = 0; h < H1; ++h) {
      float a = b1[h];
      for (int k = 0; k < 4 * C; ++k) a += w1[h * 4 * C + k] * y[k];
      a = a > 0 ? a : 0;
      for (int c = 0; c < C; ++c) u[c] += w2[c * H1 + h] * a;
    }
  for (int c = 0; c < C; ++c) out[c * plane + rows[1] + column] = y[c] + u[c];
}

extern "C" int run(const float *x, float *out, const float *w1, const float *b1, const float *w2, const int *keys,
                   unsigned long long below, int B, int H, int W, void *stream) {
  step<<<dim3((W + 127) / 128, H, B), 128, 0, static_cast<cudaStream_t>(stream)>>>(x, out, w1, b1, w2, keys, below, H, W);
  return cudaGetLastError();
}
