"""What is applied to each number that a layer gives: functions by the names that torch.nn.functional has for them."""

import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_PARAMETERS = {"leaky_relu": 0.01, "hardtanh": 1.0}  # functions that take one: the slope below 0, the bound
_FUNCTIONS = {
    "identity": lambda t: t,
    "relu": lambda t: torch.relu(t),
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
NAMES = (*_FUNCTIONS, *_PARAMETERS)


class Activation(NamedTuple):
    """A function of a number, divided.

        identity    t                 leaky_relu  t where t > 0, else slope * t
        relu        max(t, 0)         elu         t where t > 0, else e^t - 1
        gelu        t Phi(t)          hardtanh    t cut to [-bound, bound]
        silu        t sigmoid(t)      tanh, sigmoid

    Phi is the distribution function of normal numbers. At its bounds hardtanh passes the gradient on, as torch.clamp.

    Args:
        name: One of `NAMES`.
        parameter: The slope of leaky_relu, 0.01 by default, or the bound of hardtanh, 1 by default; 0 for the others.
        divisor: What the result is divided by.
    """

    name: str
    parameter: float = 0.0
    divisor: float = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        """Applies it to each number."""
        if self.name == "leaky_relu":
            t = F.leaky_relu(t, self.parameter)
        elif self.name == "hardtanh":
            t = t.clamp(-self.parameter, self.parameter)
        else:
            t = _FUNCTIONS[self.name](t)
        return t if self.divisor == 1 else t * (1 / self.divisor)


def as_activation(text: str) -> Activation:
    """Reads "relu", "leaky_relu(0.2)", "tanh/10", "hardtanh(10)/10".

    Raises:
        TypeError, ValueError: There is no such function, or its parameter or divisor does not hold.
    """
    if not isinstance(text, str):
        raise TypeError(f'an activation must be a text such as "tanh/10", but got {text!r}.')
    match = re.fullmatch(r"([a-z_]+)(?:\(([^()]*)\))?(?:/(.*))?", text)
    name, parameter, divisor = match.groups() if match else (text, None, None)
    if name not in NAMES:
        raise ValueError(f'activation must be one of {", ".join(NAMES)}, such as "tanh/10", but got {text!r}.')
    if parameter is not None and name not in _PARAMETERS:
        raise ValueError(f"of activations {' and '.join(_PARAMETERS)} alone take a parameter, but got {text!r}.")
    at_least_zero = name == "leaky_relu"
    parameter = _number(parameter, _PARAMETERS.get(name, 0.0), at_least_zero, "parameter", text)
    return Activation(name, parameter, _number(divisor, 1.0, False, "divisor", text))


def _number(digits, default, may_be_zero, name, text):
    try:
        number = default if digits is None else float(digits)
    except ValueError:
        number = -1.0
    if digits is not None and not (0 < number < float("inf") or (may_be_zero and number == 0)):
        kind = "one finite number of at least 0" if may_be_zero else "one finite number above 0"
        raise ValueError(f"the {name} of an activation must be {kind}, but got {text!r}.")
    return number
