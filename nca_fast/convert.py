"""Weights of other projects, exactly: each layout by the keys that its code saves.

Learned depthwise perceptions become learned filters, or are folded into the first layer, whichever costs less.
What the weights do not say (fire rate, padding, masks) are fields of `Rule`, with the authors' values as defaults.
`fire_rate` is always the probability that a cell fires; some codes hold one minus it.
"""

import re
from typing import Any

import torch
from torch import Tensor

from nca_fast import layouts
from nca_fast.convolutions import alive
from nca_fast.filters import named
from nca_fast.nca import NCA

_FILTERS = ("identity", "sobel_x", "sobel_y", "laplacian")


def from_distill(state_dict: dict[str, Tensor], fire_rate: float = 0.5) -> NCA:
    """Reads the automaton of the Distill texture notebook (PyTorch).

    That notebook perceives identity, Sobel x, Sobel y and Laplacian, unnormalised, channel by channel (input 4 c + f);
    here the order is filter by filter (f C + c), so the columns of the first layer are permuted.

    Args:
        state_dict: "w1.weight" [hidden, 4 C, 1, 1], "w1.bias" [hidden], "w2.weight" [C, hidden, 1, 1]; any widths.
        fire_rate: The notebook's update_rate, which it does not save. In [0, 1].

    Returns:
        The automaton that computes the same update.

    Raises:
        TypeError, ValueError: keys or shapes are not those.

    Source: google-research/self-organising-systems, texture_nca_pytorch.ipynb.
    """
    what = "that of the Distill texture notebook"
    layouts.check_keys(state_dict, what, {"w1.weight", "w1.bias", "w2.weight"})
    (w1, b1), last = layouts.layer(state_dict, "w1"), layouts.layer(state_dict, "w2")
    channels = len(last[0])
    layers = [(layouts.by_filter(w1, 4, channels, what), b1), last]
    return layouts.automaton(what, layers, _FILTERS, channels, {"fire_rate": fire_rate})


def from_growing(state_dict: dict[str, Tensor], **fields: Any) -> NCA:
    """Reads a growing automaton of the PyTorch ports, in either of their layouts.

    - "fc0.weight", "fc0.bias", "fc1.weight" (and "fc1.bias"): linear layers over the state and two Sobel filters / 8.
      That code holds states [B, H, W, C] and turns rows into columns; `x.permute(0, 3, 1, 2)` is what this one takes.
    - a depthwise convolution, then 1x1 convolutions, under any names ("update.0.weight", "update.1.weight" ...): the
      perception may be fixed or learned.

    Args:
        state_dict: As above; any widths.
        fields: Of the rule. Defaults: padding "zero", alive_channel 3, fire_rate 0.5.

    Raises:
        TypeError, ValueError: keys or shapes are not those.

    Source: chenmingxiang110/Growing-Neural-Cellular-Automata; greydanus/studying_growth.
    """
    what = "that of a growing automaton: fc0 and fc1, or a depthwise convolution and 1x1 convolutions"
    layouts.check_keys(state_dict, what)
    fields = {"padding": "zero", "alive_channel": 3} | fields
    if "fc0.weight" in state_dict:
        layouts.check_keys(state_dict, what, {"fc0.weight", "fc0.bias", "fc1.weight"}, {"fc1.bias"})
        layers = [layouts.layer(state_dict, "fc0"), layouts.layer(state_dict, "fc1")]
        return layouts.automaton(what, layers, ("identity", "sobel_y/8", "sobel_x/8"), len(layers[-1][0]), fields)
    names = list(dict.fromkeys(re.sub(r"\.(weight|bias)$", "", key) for key in state_dict))
    keys = {f"{name}.weight" for name in names}
    layouts.check_keys(state_dict, what, keys, {f"{name}.bias" for name in names})
    seen = [
        name for name in names if state_dict[f"{name}.weight"].ndim == 4 and state_dict[f"{name}.weight"].shape[-1] > 1
    ]
    if len(seen) != 1 or len(names) < 3:
        raise ValueError(f"state_dict must be {what}, but got {layouts.shapes(state_dict)}.")
    (w1, b1), *rest = [layouts.layer(state_dict, name) for name in names if name != seen[0]]
    kernels, channels = state_dict[f"{seen[0]}.weight"], len(rest[-1][0])
    own = kernels.unflatten(0, (channels, -1)) if kernels.shape[:2] == (w1.shape[1], 1) else None
    if own is not None and f"{seen[0]}.bias" not in state_dict and bool((own == own[:1]).all()):
        filters = tuple(kernel.tolist() for kernel in own[0, :, 0])
        return layouts.automaton(
            what, [(layouts.by_filter(w1, len(filters), channels, what), b1), *rest], filters, channels, fields
        )
    biases = [state_dict.get(f"{seen[0]}.bias")]
    first, filters = layouts.learned_first(what, w1, b1, [kernels], biases, channels, own=False, linear=True)
    return layouts.automaton(what, [*first, *rest], filters, channels, layouts.activations(first, fields))


def from_dynca(state_dict: dict[str, Tensor], **fields: Any) -> NCA:
    """Reads the automaton of DyNCA with one scale of perception.

    Where it sees the place of a cell ("CPE"), that is in the first two, frozen channels: `positions`. Its colours are
    2 x of the first three others, not x + 0.5.

    Args:
        state_dict: "w1.weight" [hidden, 4 C or 4 C + 2, 1, 1], "w1.bias", "w2.weight" [C, hidden, 1, 1], "w2.bias".
        fields: Of the rule. Defaults: padding "replicate", fire_rate 0.5.

    Raises:
        TypeError, ValueError: keys or shapes are not those.

    Source: IVRL/DyNCA, models/dynca.py.
    """
    what = "that of DyNCA"
    layouts.check_keys(state_dict, what, {"w1.weight", "w1.bias", "w2.weight", "w2.bias"})
    (w1, b1), last = layouts.layer(state_dict, "w1"), layouts.layer(state_dict, "w2")
    channels = len(last[0])
    body, place = layouts.placed(w1, channels, what)
    layers = [(layouts.with_place(body.unflatten(1, (4, channels)), place), b1), last]
    fields = {"padding": "replicate"} | fields | {"frozen": place.shape[1]}
    return layouts.automaton(what, layers, _FILTERS, channels + place.shape[1], fields)


def from_noisenca(state_dict: dict[str, Tensor], *, dx: float = 1.0, dy: float = 1.0, **fields: Any) -> NCA:
    """Reads the automaton of NoiseNCA, or its relatives NCA and PENCA.

    PENCA's place of a cell is in the first two, frozen channels: `positions`.

    Args:
        state_dict: "w1.weight" [hidden, 4 C or 4 C + 2, 1, 1], "w1.bias", "w2.weight" [C, hidden, 1, 1], and
            "noise_level" where it is NoiseNCA.
        dx, dy: The sizes of a cell that its forward takes. Above 0.
        fields: Of the rule. Defaults: fire_rate 1 with "noise_level", else 0.5.

    Raises:
        TypeError, ValueError: keys or shapes are not those, or dx or dy is not above 0.

    Source: IVRL/NoiseNCA, models.py.
    """
    what = "that of NoiseNCA"
    if not (dx > 0 and dy > 0):
        raise ValueError(f"dx and dy must be above 0, but got {dx!r} and {dy!r}.")
    layouts.check_keys(state_dict, what, {"w1.weight", "w1.bias", "w2.weight"}, {"noise_level"})
    (w1, b1), last = layouts.layer(state_dict, "w1"), layouts.layer(state_dict, "w2")
    channels = len(last[0])
    body, place = layouts.placed(w1, channels, what)
    half = torch.tensor([[0.5, 0, 0.5], [2, -6, 2], [0.5, 0, 0.5]], dtype=torch.float64)
    sobel = torch.tensor(named("sobel_x").taps, dtype=torch.float64)
    stencils = (sobel / dx, sobel.T / dy, half / dx**2 + half.T / dy**2)
    layers = [(layouts.with_place(body.unflatten(1, (channels, 4)).transpose(1, 2), place), b1), last]
    fields = {"fire_rate": 1.0 if "noise_level" in state_dict else 0.5} | fields | {"frozen": place.shape[1]}
    filters = ("identity", *(stencil.tolist() for stencil in stencils))
    return layouts.automaton(what, layers, filters, channels + place.shape[1], fields)


def from_ncalab(state_dict: dict[str, Tensor], *, frozen: int = 0, **fields: Any) -> NCA:
    """Reads a model of NCALab, without head and clock.

    Args:
        state_dict: "network.0.weight" [hidden, (1 + n) C] or with [..., 1, 1], "network.0.bias", "network.2.weight"
            [C, hidden], and "filters.0.weight" [C, 1, k, k] ... of n learned filters; all with or without a prefix
            ("rule.", "perception."). Without learned filters n is 2, Sobel / 8, or 3, and the Laplacian.
        frozen: Its image channels, where they are immutable.
        fields: Of the rule. Defaults: fire_rate 0.5, padding "reflect" with learned filters, else "zero". With
            use_alive_mask give alive_channel=3, alive_mask="after"; versions with LeakyReLU: activation="leaky_relu".

    Raises:
        TypeError, ValueError: keys or shapes are not those.

    Source: MECLabTUDA/NCALab.
    """
    what = "that of an NCALab model without head: network.0, network.2 and filters.0, filters.1 ..."
    layouts.check_keys(state_dict, what)
    short = {re.sub(r"^(\w+\.)*?(?=(network|filters)\.\d)", "", key): value for key, value in state_dict.items()}
    count = sum(key.startswith("filters.") for key in short)
    seen = [f"filters.{n}.weight" for n in range(count)]
    layouts.check_keys(short, what, {"network.0.weight", "network.0.bias", "network.2.weight", *seen})
    (w1, b1), (w2, _) = layouts.layer(short, "network.0"), layouts.layer(short, "network.2")
    channels = len(w2)
    if (w1.shape[1] - 1) % channels == 0 and channels > 1:
        raise ValueError(
            "state_dict must be of a model without a clock (use_temporal_encoding): its column is a bias by step, "
            "which `nca_fast.rollout` takes as weights with a time axis."
        )
    if count:
        first, filters = layouts.learned_first(what, w1, b1, [short[key] for key in seen], [None] * count, channels)
    else:
        layouts.expect(what, w1, [3 * channels, 4 * channels])
        first, filters = [(w1, b1)], ("identity", "sobel_x/8", "sobel_y/8", "laplacian")[: w1.shape[1] // channels]
    fields = {"padding": "reflect" if count else "zero"} | fields
    if fields.get("alive_channel") is not None:  # theirs masks the image too, and frozen channels would be exempt
        image = torch.arange(channels, device=w2.device) < frozen
        frozen, w2 = 0, w2.masked_fill(image[:, None], 0)
        fields = {"alive_padding": "zero"} | fields
    return layouts.automaton(what, [*first, (w2[frozen:], None)], filters, channels, {"frozen": frozen} | fields)


def from_mednca(state_dict: dict[str, Tensor], *, frozen: int = 1, transposed: bool = True, **fields: Any) -> NCA:
    """Reads the automaton of Med-NCA, or one with depthwise convolutions in their place.

    Its states are [B, H, W, C]; `x.permute(0, 3, 1, 2)` is what this one takes.

    Args:
        state_dict: "p0.weight" [C, C or 1, k, k], "p0.bias" [C], the same of "p1", "fc0.weight" [hidden, 3 C],
            "fc0.bias", "fc1.weight" [C, hidden].
        frozen: Its input channels.
        transposed: Whether its code turns rows into columns, as Med-NCA's does.
        fields: Of the rule. Defaults: padding "reflect", fire_rate 0.5.

    Raises:
        TypeError, ValueError: keys or shapes are not those.

    Source: MECLabTUDA/Med-NCA, src/models/Model_BackboneNCA.py; marrlab/resilience, NCA.py (not transposed).
    """
    what = "that of Med-NCA"
    keys = {"p0.weight", "p0.bias", "p1.weight", "p1.bias", "fc0.weight", "fc0.bias", "fc1.weight"}
    layouts.check_keys(state_dict, what, keys)
    (w1, b1), (w2, _) = layouts.layer(state_dict, "fc0"), layouts.layer(state_dict, "fc1")
    kernels = [state_dict[f"{name}.weight"] for name in ("p0", "p1")]
    kernels = [kernel.mT for kernel in kernels] if transposed else kernels
    biases = [state_dict[f"{name}.bias"] for name in ("p0", "p1")]
    first, filters = layouts.learned_first(what, w1, b1, kernels, biases, len(w2), linear=True)
    fields = layouts.activations(first, {"padding": "reflect", "frozen": frozen} | fields)
    return layouts.automaton(what, [*first, (w2[fields["frozen"] :], None)], filters, len(w2), fields)


def from_goal_guided(state_dict: dict[str, Tensor], *, alive_channel: int = 3, **fields: Any) -> NCA:
    """Reads the automaton of Goal-Guided NCA: run it by `steered`.

    Its first C channels hold the goal where cells live.

    Args:
        state_dict: "perception_net.weight" [3 C, 1, 3, 3], "update_net.out.0", ".2" and ".4" with ".weight" and, but
            for the last, ".bias"; keys of the encoder, which makes the goals, are not looked at.
        alive_channel: Its living_channel_dim.
        fields: Of the rule. Defaults: padding "zero", fire_rate 0.5, clamp (-10, 10).

    Raises:
        TypeError, ValueError: keys or shapes are not those.

    Source: shyamsn97/controllable-ncas, controllable_nca/nca.py.
    """
    what = "that of Goal-Guided NCA"
    layouts.check_keys(state_dict, what)
    own = {key: value for key, value in state_dict.items() if not key.startswith("encoder.")}
    names = [f"update_net.out.{n}" for n in (0, 2, 4)]
    keys = {"perception_net.weight", *(f"{name}.weight" for name in names), *(f"{name}.bias" for name in names[:2])}
    layouts.check_keys(own, what, keys)
    (w1, b1), *rest = (layouts.layer(own, name) for name in names)
    channels = len(rest[-1][0])
    kernels = [own["perception_net.weight"]]
    (*learned, (over, bias)), filters = layouts.learned_first(what, w1, b1, kernels, [None], channels, own=False)
    over = over.unflatten(1, (-1, channels))
    over = torch.cat([over, over], 2).flatten(1)  # the goal is seen as the state is
    learned = [(torch.cat([seen, seen], 1), None) for seen, _ in learned]
    fields = {"padding": "zero", "clamp": (-10.0, 10.0)} | fields
    fields |= {"frozen": channels, "alive_channel": channels + alive_channel}
    return layouts.automaton(what, [*learned, (over, bias), *rest], filters, 2 * channels, fields)


def steered(nca: NCA, x: Tensor, goal: Tensor, steps: int, **options: Any) -> Tensor:
    """Runs the automaton of `from_goal_guided`, or the preset "goal-guided", towards a goal.

    Args:
        x: States without goal channels, [B, C, H, W].
        goal: What is added to the state that a living cell sees, [B, C].
        steps: Of the rollout.
        options: Of `nca_fast.rollout`, but after and after_inputs.

    Returns:
        The state after the steps, [B, C, H, W], with gradients into x, goal and weights.
    """
    C = x.shape[1]
    if nca.rule.channels != 2 * C or goal.shape != (len(x), C):
        raise ValueError(
            f"x and goal must be [B, {nca.rule.channels // 2}, H, W] and [B, {nca.rule.channels // 2}], but got "
            f"{list(x.shape)} and {list(goal.shape)}."
        )

    def aim(_, y, n, goal):
        return torch.cat([goal[:, :, None, None] * alive(y, nca.rule), y[:, C:]], 1)

    start = aim(None, torch.cat([x, x], 1), -1, goal)
    return nca(start, steps, after=aim, after_inputs=[goal], **options)[..., C:, :, :]


def positions(height: int, width: int) -> Tensor:
    """Gives the place of each cell as DyNCA and PENCA see it: row and column from -1 to 1, of centres. [2, H, W]"""
    rows, columns = (2 * ((torch.arange(n) + 0.5) / n - 0.5) for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
