"""What one step of an automaton is, apart from its weights."""

import json
from dataclasses import asdict, dataclass, fields
from numbers import Real

from nca_fast.activations import as_activation
from nca_fast.derivatives import derivatives
from nca_fast.fields import as_dataclass, parsed, typed
from nca_fast.filters import Filter, as_filter
from nca_fast.integers import as_integer
from nca_fast.kernel_rule import KernelRule

PADDINGS = ("circular", "zero", "reflect", "replicate")
ALIVE_MASKS = ("both", "before", "after", "update")
AXES = ("batch", "channel", "height", "width")


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


def _axes(shared):
    if isinstance(shared, str) or not hasattr(shared, "__iter__"):
        raise TypeError(f"fire_shared must be a tuple of some of {AXES}, but got {shared!r}.")
    shared = tuple(shared)
    if not set(shared) <= set(AXES) or len(set(shared)) < len(shared):
        raise ValueError(f"fire_shared must be a tuple of some of {AXES}, each once, but got {shared!r}.")
    return tuple(axis for axis in AXES if axis in shared)


@dataclass(frozen=True)
class Rule:
    """The static description of one step.

        s  = x + state_noise * e                    on the written channels: those after the frozen ones
        y  = filter_f * s_c                         perception, index f * channels + c: filters, learned ones, maxima
        h  = activation(W1 y + b1), ...             no hidden layer, one or more
        u  = update_activation(W h + b) + update_noise * e'         channels - frozen numbers
        m  = fire mask                              alive_mask="update": m and alive(x)
        x' = s + u where m, else s                  residual=False: u where m, else s
        x' = x' * (alive(x) and alive(x'))          by "both"; "before": alive(x) alone; "after": alive(x') alone
        x' = clamp(x', low, high)

    in this order. alive(z): the maximum of the alive channel of z over 3x3 exceeds the threshold. e and e' are normal
    numbers (`nca_fast.normal`). Frozen channels are copied: not noised, masked or clamped.

    On a CPU cells that do not fire cost nothing, unless each channel fires for itself (no "channel" in fire_shared).

    Args:
        channels: State channels C of a cell. At least 1.
        hidden: Widths of the hidden layers; () for none.
        filters: What a cell perceives of every channel, in this order: names ("sobel_x", "sobel_x/8", see
            `filters.NAMES`), `Filter` objects, or odd-sized squares of numbers. Duplicates are allowed.
        fire_rate: Probability that a cell updates in a step, in [0, 1].
        padding: What lies beyond the edges: "circular" (the canvas is a torus), "zero", "reflect" (the cells before the
            edge, mirrored at the outermost one) or "replicate" (the outermost cell).
        frozen: The first `frozen` channels are read but never written. 0 to channels - 1.
        hidden_bias: Whether the hidden layers have biases.
        output_bias: Whether the last layer has one.
        maximum_window: Odd width of the window whose maximum is perceived too, per channel; None for none.
        alive_channel: Channel whose 3x3 maximum must exceed `alive_threshold` before and after the update, or the
            written channels of the cell become 0; None for no alive mask.
        alive_threshold: See `alive_channel`.
        alive_mask: When a cell must be alive, see above: "both", "before", "after", or "update": before, or it is not
            updated. "before" and "after" look before the noise and after the update.
        alive_padding: "zero": nothing lives beyond the edges of a torus either; None: as `padding` has it.
        fire_shared: The axes along which all share one draw of the fire mask: any of "batch", "channel", "height" and
            "width". Without "channel" every written channel of a cell fires for itself.
        activation: Of the hidden layers, one for all or a tuple with one for each: "relu", "identity",
            "leaky_relu(0.2)", "elu", "gelu", "silu", "tanh", "sigmoid", "hardtanh(1)"; "tanh/10" divides by 10.
        update_activation: Of the last layer, likewise.
        residual: Whether the update is added to the state or takes its place.
        clamp: (low, high) to which the written channels are cut after each step, None for no bound; or None. Must hold
            0 and, below `high`, the alive threshold, so that it does not decide who lives.
        state_noise: Standard deviation of the normal numbers that are added to the state before it is perceived, and
            stay there, in all cells. At least 0.
        update_noise: Standard deviation of those that are added to the update. At least 0.
        learned_filters: Number L of 3x3 filters of every channel that are learned, each channel's its own (depthwise
            convolutions). At least 0. Their kernels K [L, channels, 3, 3] are the first of the weights, and they come
            after `filters`, which may be (): with F of those, filter l of channel c is

                y[(F + l) * channels + c](r, k) = sum over i, j of K[l, c, i, j] * s_c(r + i - 1, k + j - 1)

            A bias of theirs is W1 times it, added to b1. An activation between them and the first layer there is not; a
            convolution of all channels together is a first layer over one-hot filters (`nca_fast.folding`).

    Attributes:
        activations: `Activation` of every layer, first to last.
        derivatives: Which filters are derivatives, of which order: `Derivatives`.
        kernel_rule: What kernels are told of the rule.
        layers: (outputs, inputs, has a bias) of every layer, first to last.
        weight_shapes: Shapes of all weights as `rollout` takes them, pairs (W, b): those of learned filters, without b,
            first.

    Raises:
        TypeError, ValueError: name, rule and value of the first field that does not hold.

    Source: Mordvintsev et al., "Growing Neural Cellular Automata" (Distill 2020); Niklasson et al., "Self-Organising
    Textures" (Distill 2021); Chen and Wang, "Image Generation With Neural Cellular Automatas" (VAE-NCA, 2020). Noise:
    Randazzo et al., "Self-classifying MNIST Digits" (Distill 2020). Alive before the update alone: Mordvintsev et al.,
    "Growing Isotropic Neural Cellular Automata" (2022). Reflection: Kalkhof et al., "Med-NCA" (2023); replication:
    Pajouheshgar et al., "DyNCA" (2023). Other activations and no hidden layer: Palm et al., "Variational Neural
    Cellular Automata" (2022). Clamp and learned filters: Sudhakaran et al., "Goal-Guided Neural Cellular Automata"
    (2022).
    """

    channels: int = 12
    hidden: tuple[int, ...] = (96,)
    filters: tuple[Filter | str, ...] = ("identity", "sobel_x", "sobel_y", "laplacian")  # names become filters
    fire_rate: float = 0.5
    padding: str = "circular"
    frozen: int = 0
    hidden_bias: bool = True
    output_bias: bool = False
    maximum_window: int | None = None
    alive_channel: int | None = None
    alive_threshold: float = 0.1
    alive_mask: str = "both"
    alive_padding: str | None = None
    fire_shared: tuple[str, ...] = ("channel",)
    activation: str | tuple[str, ...] = "relu"
    update_activation: str = "identity"
    residual: bool = True
    clamp: tuple[float | None, float | None] | None = None
    state_noise: float = 0.0
    update_noise: float = 0.0
    learned_filters: int = 0

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        put("channels", _integer("channels", self.channels, 1))
        put("frozen", _integer("frozen", self.frozen, 0, self.channels - 1))
        if as_integer(self.hidden) is not None:
            raise TypeError(f"hidden must be a tuple of widths such as ({self.hidden},), but got {self.hidden}.")
        put("hidden", tuple(_integer("each width in hidden", width, 1) for width in self.hidden))
        if isinstance(self.filters, str):
            raise TypeError(f"filters must be a tuple of filters, but got the single string {self.filters!r}.")
        put("filters", tuple(as_filter(f) for f in self.filters))
        put("learned_filters", _integer("learned_filters", self.learned_filters, 0))
        if not self.filters and self.maximum_window is None and not self.learned_filters:
            raise ValueError("filters must name at least one filter, but got () and learned_filters 0.")
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
        if self.alive_mask not in ALIVE_MASKS:
            raise ValueError(f"alive_mask must be one of {ALIVE_MASKS}, but got {self.alive_mask!r}.")
        if self.alive_padding not in (None, "zero"):
            raise ValueError(f"alive_padding must be 'zero' or None, but got {self.alive_padding!r}.")
        self._refuse_idle(("alive_threshold", "alive_mask", "alive_padding"), "an alive_channel", self.alive_channel)
        put("fire_shared", _axes(self.fire_shared))
        if hasattr(self.activation, "__iter__") and not isinstance(self.activation, str):
            put("activation", tuple(self.activation))
        else:
            as_activation(self.activation)  # where there is no hidden layer, too
            self._refuse_idle(("activation",), "hidden layers", self.hidden or None)
        put("activations", self._activations())
        if not isinstance(self.residual, bool):
            raise TypeError(f"residual must be True or False, but got {self.residual!r}.")
        put("clamp", None if self.clamp is None else self._clamp())
        for name in ("state_noise", "update_noise"):
            put(name, _number(name, getattr(self, name), "a standard deviation"))
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and at least 0, but got {getattr(self, name)}.")
        # Once, because every rollout asks for them, and torch.compile cannot trace json.
        put("derivatives", derivatives(self.filters))
        widths, last = (self.inputs, *self.hidden, self.written), len(self.hidden)
        biases = (*(self.hidden_bias,) * last, self.output_bias)
        put("layers", tuple(zip(widths[1:], widths, biases, strict=False)))
        kernels = ((self.learned_filters, self.channels, 3, 3), None)
        shapes = (((out, inputs), (out,) if has_bias else None) for out, inputs, has_bias in self.layers)
        put("weight_shapes", (kernels, *shapes) if self.learned_filters else tuple(shapes))
        put("_json", json.dumps(asdict(self)))
        put("kernel_rule", KernelRule.of(self))

    def _refuse_idle(self, names, with_what, given):
        """Refuses fields that would say nothing, because what they are about is not there."""
        idle = [f for f in fields(self) if f.name in names and getattr(self, f.name) != f.default and given is None]
        if idle:
            name = idle[0].name
            raise ValueError(
                f"{name} must go with {with_what}, but got {getattr(self, name)!r} and none: leave it out."
            )

    def _activations(self):
        names = (self.activation,) * len(self.hidden) if isinstance(self.activation, str) else self.activation
        if len(names) != len(self.hidden):
            raise ValueError(
                f"activation must be one for all hidden layers or a tuple of {len(self.hidden)}, one for each, but got "
                f"{self.activation!r}."
            )
        return tuple(map(as_activation, (*names, self.update_activation)))

    def _clamp(self):
        if isinstance(self.clamp, str) or not hasattr(self.clamp, "__len__") or len(self.clamp) != 2:
            raise TypeError(f"clamp must be (low, high), each a number or None, or None, but got {self.clamp!r}.")
        low, high = (None if v is None else _number("a bound of clamp", v, "a number or None") for v in self.clamp)
        least, most = -float("inf") if low is None else low, float("inf") if high is None else high
        bounds = [bound for bound in (low, high) if bound is not None]
        if not (bounds and least <= 0 <= most and least < most) or any(abs(bound) == float("inf") for bound in bounds):
            raise ValueError(
                f"clamp must be (low, high), finite, with low at most 0 and high at least 0, but got {self.clamp}."
            )
        if self.alive_channel is not None and not least <= self.alive_threshold < most:
            raise ValueError(
                f"clamp must hold the alive threshold {self.alive_threshold}, below its upper bound, or it would "
                f"decide who lives, but got {self.clamp}."
            )
        return low, high

    @property
    def alive_circular(self) -> bool:
        """Whether the alive mask of a cell beside an edge looks to the other side of the canvas."""
        return (self.alive_padding or self.padding) == "circular"

    @property
    def inputs(self) -> int:
        """Inputs of the first layer: channels times (filters, fixed and learned, plus one for the local maximum)."""
        return self.channels * (len(self.filters) + self.learned_filters + (self.maximum_window is not None))

    @property
    def written(self) -> int:
        """Outputs of the last layer: the channels that are not frozen."""
        return self.channels - self.frozen

    @property
    def filter_reach(self) -> int:
        """Rows and columns to either side that the filters see."""
        return max([1, *(f.size for f in self.filters), *([3] if self.learned_filters else [])]) // 2

    @property
    def reach(self) -> int:
        """Rows and columns of neighbours that one step of a cell depends on."""
        reach = max(self.filter_reach, (self.maximum_window or 1) // 2)
        if self.alive_channel is None:
            return reach
        # Who is alive afterwards hangs on the updates of the neighbours.
        return reach + 1 if self.alive_mask in ("both", "after") else max(reach, 1)

    def to_json(self) -> str:
        """Writes the rule as a line of JSON; `Rule.from_json` reads it."""
        return self._json

    @classmethod
    def from_json(cls, text: str) -> "Rule":
        """Reads the rule that `to_json` wrote; a field that is not there has its default.

        Raises:
            ValueError: not JSON, or fields unknown, or such as `Rule` refuses.
        """
        values = parsed(typed(str, text, "a rule"), "a rule")
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            got = sorted(values) if isinstance(values, dict) else values
            raise ValueError(f"a rule must have some of the fields {sorted(known)}, but got {got}.")
        return as_dataclass(cls, values, "a rule", complete=False)
