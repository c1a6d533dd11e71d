// What is applied to the numbers that a layer gives, and the slopes; see nca_fast/activations.py for their names.
#pragma once

#include "interface.h"
#include "network.h"

namespace nca_fast {

enum class Function { identity, relu, leaky_relu, elu, gelu, silu, tanh, sigmoid, hardtanh };  // in the order of rollout.py

struct PowerOfE { vf power, part; };  // e^x = power (1 + part), and part = e^r - 1 for the r that is left of x

inline PowerOfE power_of_e(vf x) {
  constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693145752f, LN2_LOW = 1.42860677e-6f, ROUND = 12582912.f;  // 1.5 * 2^23
  x = x < -87.f ? splat(-87.f) : x;
  x = x > 88.f ? splat(88.f) : x;  // NaN stays NaN
  const vf n = (x * LOG2E + ROUND) - ROUND, r = (x - n * LN2_HIGH) - n * LN2_LOW;
  const vf q = 0.5f + r * (0.16666576f + r * (0.041666463f + r * (0.008363186f + r * 0.0013933658f)));
  const vi exponent = __builtin_convertvector(n, vi);
  return {(vf)((exponent + 127) << 23), r + r * r * q};
}

inline vf exp(vf x) {
  const PowerOfE e = power_of_e(x);
  const vf result = e.power + e.power * e.part;
  return x > 88.f ? splat(__builtin_inff()) : x < -87.f ? vf{} : result;
}

inline vf exp_minus_1(vf x) {
  const PowerOfE e = power_of_e(x);
  return e.power * e.part + (e.power - 1.f);
}

inline vf magnitude(vf x) { return x < 0 ? -x : x; }

inline vf tanh(vf x) {
  const vf t = exp_minus_1(2.f * magnitude(x)), y = t / (t + 2.f);
  return x < 0 ? -y : y;
}

inline vf sigmoid(vf x) { return 1.f / (1.f + exp(-x)); }

// The distribution function of normal numbers: e^(-a a / 2) times a polynomial of 1 / (1 + 0.24 a) is that of -a.
inline vf normal_below(vf x) {
  const vf a = magnitude(x), t = 1.f / (1.f + 0.24f * a);
  constexpr float C[] = {-2.4742735e-06f, 0.09579456f, 0.095371924f, 0.091511324f, 0.07905586f, 0.04773215f,
                         0.11173977f,     -0.11417637f, 0.1859808f,  -0.11732825f, 0.02432071f};
  vf p = splat(C[10]);
  for (int i = 9; i >= 0; --i) p = p * t + C[i];
  p *= exp(-0.5f * a * a);
  return x < 0 ? p : 1.f - p;
}

// A function with its parameter, divided.
struct Applied {
  Applied(const Activation& a) : function(Function(a.function)), parameter(float(a.parameter)), scale(float(1 / a.divisor)) {}

  bool is(Function f) const { return function == f && scale == 1.f; }
  // Whether the slope is computed from what went in, and not from what came out.
  bool slope_of_input() const {
    return scale != 1.f || function == Function::gelu || function == Function::silu || function == Function::hardtanh;
  }

  vf of(vf z) const {
    switch (function) {
      case Function::identity: break;
      case Function::relu: z = relu(z); break;
      case Function::leaky_relu: z = z > 0 ? z : parameter * z; break;
      case Function::elu: z = z > 0 ? z : exp_minus_1(z); break;
      case Function::gelu: z = z * normal_below(z); break;
      case Function::silu: z = z * sigmoid(z); break;
      case Function::tanh: z = nca_fast::tanh(z); break;
      case Function::sigmoid: z = nca_fast::sigmoid(z); break;
      case Function::hardtanh: z = z < -parameter ? splat(-parameter) : z > parameter ? splat(parameter) : z;
    }
    return scale == 1.f ? z : z * scale;
  }

  // The slope at what went in, or of what came out: see slope_of_input.
  vf slope(vf at) const {
    const vf one = splat(1.f);
    vf s = one;
    switch (function) {
      case Function::identity: break;
      case Function::relu: s = at > 0 ? one : vf{}; break;
      case Function::leaky_relu: s = at > 0 ? one : splat(parameter); break;
      case Function::elu: s = at > 0 ? one : slope_of_input() ? exp(at) : at + 1.f; break;
      case Function::gelu: s = normal_below(at) + at * (0.398942280f * exp(-0.5f * at * at)); break;
      case Function::silu: s = sigmoid(at), s = s + at * s * (1.f - s); break;
      case Function::tanh: at = slope_of_input() ? nca_fast::tanh(at) : at, s = 1.f - at * at; break;
      case Function::sigmoid: at = slope_of_input() ? nca_fast::sigmoid(at) : at, s = at * (1.f - at); break;
      case Function::hardtanh: s = magnitude(at) <= parameter ? one : vf{};
    }
    return s * scale;
  }

  Function function;
  float parameter, scale;
};

// Applies a function to numbers of packed cells, and keeps in `input` what went in, unless null.
NCA_FAST_APART inline void apply(const Applied& a, Cells<float> at, float* input, int64_t rows, int cells) {
  for (int64_t o = 0; o < rows; ++o)
    for (int p = 0; p < cells; p += VL) {
      const vf z = load(at.at + o * at.stride + p);
      if (input) store(input + o * CHUNK + p, z);
      store(at.at + o * at.stride + p, a.of(z));
    }
}

// Multiplies gradients of packed cells by the slope at numbers of [rows][CHUNK].
NCA_FAST_APART inline void apply_slope(const Applied& a, Cells<float> grad, const float* at, int64_t rows, int cells) {
  for (int64_t o = 0; o < rows; ++o)
    for (int p = 0; p < cells; p += VL) {
      float* g = grad.at + o * grad.stride + p;
      store(g, load(g) * a.slope(load(at + o * CHUNK + p)));
    }
}

}  // namespace nca_fast
