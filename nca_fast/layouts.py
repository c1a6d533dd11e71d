"""What readers of other projects' weights share: checks of keys and shapes, the order of columns, the automaton.

`what` says in an error which layout was expected.
"""

from typing import Any

import torch
from torch import Tensor

from nca_fast import folding
from nca_fast.nca import NCA
from nca_fast.rule import Rule

_SAID_BY_WEIGHTS = {"channels", "hidden", "filters", "learned_filters", "hidden_bias", "output_bias"}
Pair = tuple[Tensor, Tensor | None]


def check_keys(
    state_dict: dict[str, Tensor], what: str, keys: set[str] | None = None, optional: set[str] = frozenset()
) -> None:
    """Checks that it holds tensors, and these keys where they are known already."""
    if not isinstance(state_dict, dict) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise TypeError(f"state_dict must be {what}, names and tensors, but got {state_dict!r:.60}.")
    if keys is not None and not keys <= set(state_dict) <= keys | optional:
        also = f" (and perhaps {sorted(optional)})" if optional else ""
        raise ValueError(f"state_dict must have the keys {sorted(keys)}{also}, {what}, but got {sorted(state_dict)}.")


def shapes(state_dict: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Gives the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in state_dict.items()}


def layer(state_dict: dict[str, Tensor], name: str) -> Pair:
    """Gives (W, b or None) of a linear layer or a 1x1 convolution."""
    weight = state_dict[f"{name}.weight"]
    if weight.ndim == 4 and weight.shape[2:] == (1, 1):
        weight = weight[:, :, 0, 0]
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"state_dict must have the shapes of linear layers, but got {shapes(state_dict)}.")
    return weight, state_dict.get(f"{name}.bias")


def expect(what: str, w1: Tensor, inputs: list[int]) -> None:
    """Raises ValueError where the first layer has none of these numbers of inputs."""
    if w1.shape[1] not in inputs:
        raise ValueError(
            f"state_dict must have the shapes of a first layer with {' or '.join(map(str, inputs))} inputs, {what}, "
            f"but got {w1.shape[1]}."
        )


def by_filter(w1: Tensor, count: int, channels: int, what: str) -> Tensor:
    """Puts columns c F + f in the order f C + c."""
    expect(what, w1, [count * channels])
    return w1.unflatten(1, (channels, count)).transpose(1, 2).flatten(1)


def placed(w1: Tensor, channels: int, what: str) -> tuple[Tensor, Tensor]:
    """Splits the columns of the perception from those of the place of a cell, if any."""
    expect(what, w1, [4 * channels, 4 * channels + 2])
    return w1[:, : 4 * channels], w1[:, 4 * channels :]


def with_place(body: Tensor, place: Tensor) -> Tensor:
    """Joins columns [hidden, F, C] with those of the place before them, which the identity alone looks at."""
    none = place.new_zeros(len(place), body.shape[1] - 1, place.shape[1])
    return torch.cat([torch.cat([place[:, None], none], 1), body], 2).flatten(1)


def learned_first(
    what: str,
    w1: Tensor,
    b1: Tensor | None,
    kernels: list[Tensor],
    biases: list[Tensor | None],
    channels: int,
    own: bool = True,
    linear: bool = False,
) -> tuple[list[Pair], tuple]:
    """Gives learned convolutions and the first layer over them, and over the cell itself before, in the cheaper form.

    That is learned filters and a layer over those, where all are depthwise convolutions of 3x3 and that multiplies
    less, hidden * n * C + 9 L C numbers a cell for n perceptions of each channel, L of them learned; or a layer over
    shifts, hidden * k * k * C; or, if `linear` and where that is less, a linear one of all P perceptions before it,
    P * k * k * C + hidden * P.

    Returns:
        The first of the weights as `rollout` takes them, and the fixed filters. Of two layers the first is linear.
    """
    dense = [folding.dense_kernels(kernel, channels) for kernel in kernels]
    biases = [
        kernel.new_zeros(len(kernel)) if bias is None else bias for kernel, bias in zip(dense, biases, strict=True)
    ]
    if own:
        dense.insert(0, folding.identity_kernels(channels, dense[0]))
        biases.insert(0, dense[0].new_zeros(channels))
    if len(sizes := {kernel.shape[-1] for kernel in dense}) > 1:
        raise ValueError(f"state_dict must have perceptions of one size, {what}, but got {sorted(sizes)}.")
    seen = torch.cat(dense)
    expect(what, w1, [len(seen)])
    bias = w1.new_zeros(len(w1)) if b1 is None else b1
    count = len(seen) // channels - own
    native = len(w1) * len(seen) + 9 * count * channels < len(w1) * 9 * channels
    if not (native and all(kernel.shape[1:] == (1, 3, 3) for kernel in kernels)):
        shifts, taps = folding.shifts(seen.shape[-1]), seen[0].numel()
        if linear and len(seen) * (taps + len(w1)) < len(w1) * taps:
            return [(seen.permute(0, 2, 3, 1).flatten(1), torch.cat(biases)), (w1, bias)], shifts
        return [folding.folded(w1, bias, seen, torch.cat(biases))], shifts
    bias = (bias.double() + w1.double() @ torch.cat(biases).double()).to(bias)
    taps = [kernel.unflatten(0, (channels, -1))[:, :, 0].transpose(0, 1) for kernel in kernels]
    columns = w1.split([channels] * own + [len(kernel) for kernel in kernels], 1)
    over = [part.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1) for part in columns]
    return [(torch.cat(taps), None), (torch.cat(over, 1), bias)], ("identity",) * own


def activations(first: list[Pair], fields: dict[str, Any]) -> dict[str, Any]:
    """Completes the fields of a rule whose first layer `learned_first` gave, perhaps in two: linear, then its own."""
    if len(first) == 1 or first[0][0].ndim != 2:
        return fields
    given = fields.get("activation", "relu")
    return fields | {"activation": ("identity", *((given,) if isinstance(given, str) else given))}


def automaton(what: str, weights: list[Pair], filters: tuple, channels: int, fields: dict[str, Any]) -> NCA:
    """Makes the automaton of weights as `rollout` takes them: (W, b or None) of every layer, learned kernels before."""
    kernels, layers = (weights[0][0], weights[1:]) if weights[0][0].ndim == 4 else (None, weights)
    if given := _SAID_BY_WEIGHTS & set(fields):
        raise ValueError(f"{sorted(given)} must not be given: the weights say it. Leave it out.")
    hidden_bias = any(bias is not None for _, bias in layers[:-1])
    layers = [
        (w, w.new_zeros(len(w)) if b is None and hidden_bias and n < len(layers) - 1 else b)
        for n, (w, b) in enumerate(layers)
    ]
    rule = Rule(
        channels=channels,
        hidden=tuple(len(w) for w, _ in layers[:-1]),
        filters=filters,
        hidden_bias=hidden_bias,
        output_bias=layers[-1][1] is not None,
        learned_filters=0 if kernels is None else len(kernels),
        **fields,
    )
    expected = [((out, inputs), (out,) if bias else None) for out, inputs, bias in rule.layers]
    got = [(tuple(w.shape), None if b is None else tuple(b.shape)) for w, b in layers]
    if got != expected:
        raise ValueError(f"state_dict must have the shapes (W, b) {expected}, {what}, but got {got}.")
    nca = NCA(rule, start="zeros" if rule.alive_channel is None else "cell").to(layers[0][0])
    tensors = {} if kernels is None else {"kernels": kernels}
    tensors |= {f"layers.{n}.weight": w for n, (w, _) in enumerate(layers)}
    nca.load_state_dict(tensors | {f"layers.{n}.bias": b for n, (_, b) in enumerate(layers) if b is not None})
    return nca
