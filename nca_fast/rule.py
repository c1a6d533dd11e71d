"""What one step of an automaton is, apart from its weights."""

import json
import operator
from array import array
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

import torch

from nca_fast.fields import as_dataclass, parsed, typed
from nca_fast.filters import Filter, as_filter

PADDINGS = ("circular", "zero")


def as_integer(value: Any) -> int | None:
    """Returns the integer that Python's, numpy's or a tensor [] holds, as `operator.index`; None for all else.

    A truth value is no number, and a symbol of torch.compile stays one.
    """
    if isinstance(value, bool) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return None


def _integer(name, value, low, high=None):
    bound = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    number = as_integer(value)
    if number is None:
        raise TypeError(f"{name} must be {bound}, but got {value!r}.")
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {bound}, but got {number}.")
    return number


def _number(name, value, meaning):
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {meaning}, but got {value!r}.")
    return float(value)


@dataclass(frozen=True)
class KernelRule:
    """What a kernel needs to know of a rule, as plain numbers.

    Args:
        stencils: [F][S][S] with S the size of the largest filter, 3 at least; smaller ones lie in the middle. Rounded
            to float32, so that all kernels multiply by the same numbers.
        layers: (outputs, inputs, has a bias) of every layer.
        frozen, circular, maximum_window, alive_channel, alive_threshold: As in `Rule`.
    """

    stencils: tuple[tuple[tuple[float, ...], ...], ...]
    layers: tuple[tuple[int, int, bool], ...]
    frozen: int
    circular: bool
    maximum_window: int | None
    alive_channel: int | None
    alive_threshold: float

    @classmethod
    def of(cls, rule: "Rule") -> "KernelRule":
        """Takes from a rule what kernels see."""
        size = max([3, *(filter.size for filter in rule.filters)])

        def padded(filter):
            side = (0.0,) * ((size - filter.size) // 2)
            blank = ((0.0,) * size,) * len(side)
            return (*blank, *((*side, *array("f", row), *side) for row in filter.kernel), *blank)

        stencils = tuple(map(padded, rule.filters))
        alive = (rule.alive_channel, rule.alive_threshold)
        return cls(stencils, rule.layers, rule.frozen, rule.padding == "circular", rule.maximum_window, *alive)

    @property
    def channels(self) -> int:
        """State channels."""
        return self.frozen + self.layers[-1][0]

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(out for out, _, _ in self.layers[:-1])


@dataclass(frozen=True)
class Rule:
    """The static description of one step.

        y_c,f = filter_f * x_c                      perception, index f * channels + c (then the local maxima)
        h     = relu(W1 y + b1)                     one hidden layer or more
        u     = W2 h + b2                           channels - frozen numbers
        x'    = x + m * u                           on the channels after the frozen ones; m = fire mask

    Args:
        channels: State channels C of a cell. At least 1.
        hidden: Widths of the hidden layers, one or more.
        filters: What a cell perceives of every channel, in this order: names ("sobel_x", "sobel_x/8", see
            `filters.NAMES`), `Filter` objects, or odd-sized squares of numbers. Duplicates are allowed.
        fire_rate: Probability that a cell updates in a step, in [0, 1].
        padding: "circular" (the canvas is a torus) or "zero".
        frozen: The first `frozen` channels are read but never written. 0 to channels - 1.
        hidden_bias: Whether the hidden layers have biases.
        output_bias: Whether the last layer has one.
        maximum_window: Odd width of the window whose maximum is perceived too, per channel; None for none.
        alive_channel: Channel whose 3x3 maximum must exceed `alive_threshold` before and after the update, or the
            written channels of the cell become 0; None for no alive mask.
        alive_threshold: See `alive_channel`.

    Attributes:
        kernel_rule: What kernels are told of the rule.

    Raises:
        TypeError, ValueError: name, rule and value of the first field that does not hold.

    Source: Mordvintsev et al., "Growing Neural Cellular Automata" (Distill 2020); Niklasson et al., "Self-Organising
    Textures" (Distill 2021); Chen and Wang, "Image Generation With Neural Cellular Automatas" (VAE-NCA, 2020).
    """

    channels: int = 12
    hidden: tuple[int, ...] = (96,)
    filters: tuple[Filter, ...] = ("identity", "sobel_x", "sobel_y", "laplacian")
    fire_rate: float = 0.5
    padding: str = "circular"
    frozen: int = 0
    hidden_bias: bool = True
    output_bias: bool = False
    maximum_window: int | None = None
    alive_channel: int | None = None
    alive_threshold: float = 0.1

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        put("channels", _integer("channels", self.channels, 1))
        put("frozen", _integer("frozen", self.frozen, 0, self.channels - 1))
        if as_integer(self.hidden) is not None:
            raise TypeError(f"hidden must be a tuple of widths such as ({self.hidden},), but got {self.hidden}.")
        put("hidden", tuple(_integer("each width in hidden", width, 1) for width in self.hidden))
        if not self.hidden:
            raise ValueError("hidden must hold at least one layer width, but got ().")
        if isinstance(self.filters, str):
            raise TypeError(f"filters must be a tuple of filters, but got the single string {self.filters!r}.")
        put("filters", tuple(as_filter(f) for f in self.filters))
        if not self.filters and self.maximum_window is None:
            raise ValueError("filters must name at least one filter, but got ().")
        put("fire_rate", _number("fire_rate", self.fire_rate, "a number in [0, 1]"))
        if not 0 <= self.fire_rate <= 1:
            raise ValueError(f"fire_rate must be in [0, 1], but got {self.fire_rate}.")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}, but got {self.padding!r}.")
        if self.maximum_window is not None:
            put("maximum_window", _integer("maximum_window", self.maximum_window, 1, 9))
            if self.maximum_window % 2 == 0:
                raise ValueError(f"maximum_window must be odd, but got {self.maximum_window}.")
        if self.alive_channel is not None:
            put("alive_channel", _integer("alive_channel", self.alive_channel, 0, self.channels - 1))
        put("alive_threshold", _number("alive_threshold", self.alive_threshold, "a number"))
        if not abs(self.alive_threshold) < float("inf"):  # false for NaN too
            raise ValueError(f"alive_threshold must be finite, but got {self.alive_threshold}.")
        # Once, because every rollout asks for them, and torch.compile cannot trace json.
        put("_json", json.dumps(asdict(self)))
        put("kernel_rule", KernelRule.of(self))

    @property
    def inputs(self) -> int:
        """Inputs of the first layer: channels times (filters, plus one for the local maximum)."""
        return self.channels * (len(self.filters) + (self.maximum_window is not None))

    @property
    def written(self) -> int:
        """Outputs of the last layer: the channels that are not frozen."""
        return self.channels - self.frozen

    @property
    def layers(self) -> tuple[tuple[int, int, bool], ...]:
        """(outputs, inputs, has a bias) of every layer, first to last."""
        widths = (self.inputs, *self.hidden, self.written)
        last = len(widths) - 2
        return tuple(
            (widths[i + 1], widths[i], self.output_bias if i == last else self.hidden_bias) for i in range(last + 1)
        )

    @property
    def reach(self) -> int:
        """Rows and columns of neighbours that one step of a cell depends on."""
        sizes = [f.size for f in self.filters] + [self.maximum_window or 1]
        # The alive mask of a cell asks whether its neighbours are alive after their own update.
        return max(sizes) // 2 + (self.alive_channel is not None)

    def to_json(self) -> str:
        """Writes the rule as a line of JSON; `Rule.from_json` reads it."""
        return self._json

    @classmethod
    def from_json(cls, text: str) -> "Rule":
        """Reads the rule that `to_json` wrote.

        Raises:
            ValueError: not JSON, or fields missing, unknown, or such as `Rule` refuses.
        """
        values = parsed(typed(str, text, "a rule"), "a rule")
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            got = sorted(values) if isinstance(values, dict) else values
            raise ValueError(f"a rule must have the fields {sorted(known)}, but got {got}.")
        return as_dataclass(cls, values, "a rule")
