"""What is applied to the numbers that a layer gives, in Triton, and the slopes; nca_fast/activations.py has the names.

A function is a constant of the kernels: (name, parameter, factor of the result, whether its slope is computed from what
went in, and not from what came out).
"""

import triton
import triton.language as tl

RELU = ("relu", 0.0, 1.0, False)
IDENTITY = ("identity", 0.0, 1.0, False)


def function(activation) -> tuple[str, float, float, bool]:
    """Writes an activation (`nca_fast.activations.Activation`) as a constant of kernels."""
    name, parameter, divisor = activation
    of_input = divisor != 1 or name in ("gelu", "silu", "hardtanh")
    return name, float(parameter), 1 / divisor, of_input


@triton.jit
def exp_minus_1(x):
    """Computes e^x - 1, as exact for small x as for others: 2^n (1 + p) - 1 with p = e^r - 1 of what is left of x."""
    x = tl.where(x < -87.0, -87.0, x)
    x = tl.where(x > 88.0, 88.0, x)  # NaN stays NaN
    n = (x * 1.44269504 + 12582912.0) - 12582912.0
    r = (x - n * 0.693145752) - n * 1.42860677e-6
    q = 0.5 + r * (0.16666576 + r * (0.041666463 + r * (0.008363186 + r * 0.0013933658)))
    power = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return power * (r + r * r * q) + (power - 1.0)


@triton.jit
def tanh(x):
    """Computes the hyperbolic tangent."""
    t = exp_minus_1(2.0 * tl.abs(x))
    y = t / (t + 2.0)
    return tl.where(x < 0, -y, y)


@triton.jit
def sigmoid(x):
    """Computes 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def normal_below(x):
    """Computes the distribution function of normal numbers."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def applied(z, F: tl.constexpr):
    """Applies a function to float32."""
    if F[0] == "relu":
        z = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif F[0] == "leaky_relu":
        z = tl.where(z > 0, z, F[1] * z)
    elif F[0] == "elu":
        z = tl.where(z > 0, z, exp_minus_1(z))
    elif F[0] == "gelu":
        z = z * normal_below(z)
    elif F[0] == "silu":
        z = z * sigmoid(z)
    elif F[0] == "tanh":
        z = tanh(z)
    elif F[0] == "sigmoid":
        z = sigmoid(z)
    elif F[0] == "hardtanh":
        z = tl.where(z < -F[1], -F[1], z)
        z = tl.where(z > F[1], F[1], z)
    if F[2] != 1.0:
        z = z * F[2]
    return z


@triton.jit
def sloped(grad, at, F: tl.constexpr):
    """Multiplies gradients by the slope of a function, at what went in with F[3], else of what came out; float32."""
    if F[0] == "identity":
        s = grad
    elif F[0] == "relu":
        s = tl.where(at > 0, grad, 0.0)
    elif F[0] == "leaky_relu":
        s = tl.where(at > 0, grad, F[1] * grad)
    elif F[0] == "elu":
        s = tl.where(at > 0, grad, grad * (tl.exp(tl.minimum(at, 0.0)) if F[3] else at + 1.0))
    elif F[0] == "gelu":
        s = grad * (normal_below(at) + at * (0.3989422804014327 * tl.exp(-0.5 * at * at)))
    elif F[0] == "silu":
        rise = sigmoid(at)
        s = grad * (rise + at * rise * (1.0 - rise))
    elif F[0] == "tanh":
        h = tanh(at) if F[3] else at
        s = grad * (1.0 - h * h)
    elif F[0] == "sigmoid":
        h = sigmoid(at) if F[3] else at
        s = grad * (h * (1.0 - h))
    else:
        s = tl.where(tl.abs(at) <= F[1], grad, 0.0)
    if F[2] != 1.0:
        s = s * F[2]
    return s
