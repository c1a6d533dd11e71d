// What is applied to the numbers of a layer: nca_fast/activations.py.

vec4 identity(vec4 t) { return t; }
vec4 relu(vec4 t) { return max(t, 0.0); }
vec4 leaky_relu(vec4 t, float slope) { return max(t, 0.0) + slope * min(t, 0.0); }
vec4 hardtanh(vec4 t, float bound) { return clamp(t, -bound, bound); }
vec4 sigmoid(vec4 t) { return 1.0 / (1.0 + exp(-t)); }
vec4 silu(vec4 t) { return t * sigmoid(t); }

// e^t - 1; by its series near 0, where the difference would keep few bits.
vec4 expm1(vec4 t) {
  vec4 series = t * (1.0 + t * (0.5 + t * (0.16666667 + t * (0.041666667 + t * 0.008333334))));
  return mix(exp(t) - 1.0, series, lessThan(abs(t), vec4(0.25)));
}
vec4 elu(vec4 t) { return mix(expm1(min(t, 0.0)), t, greaterThan(t, vec4(0.0))); }
vec4 hyperbolic(vec4 t) {
  vec4 e = expm1(2.0 * min(abs(t), 20.0));
  return sign(t) * e / (e + 2.0);
}

// The distribution function of normal numbers below -a is e^(-a a / 2) times a polynomial of 1 / (1 + 0.24 a).
vec4 gelu(vec4 t) {
  vec4 a = abs(t), s = 1.0 / (1.0 + 0.24 * a);
  vec4 p = vec4(0.02432071);
  p = p * s - 0.11732825;
  p = p * s + 0.1859808;
  p = p * s - 0.11417637;
  p = p * s + 0.11173977;
  p = p * s + 0.04773215;
  p = p * s + 0.07905586;
  p = p * s + 0.091511324;
  p = p * s + 0.095371924;
  p = p * s + 0.09579456;
  p = (p * s - 2.4742735e-06) * exp(-0.5 * a * a);
  return t * mix(1.0 - p, p, lessThan(t, vec4(0.0)));
}
