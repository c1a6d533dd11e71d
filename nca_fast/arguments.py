"""The checks of `rollout`'s arguments: each error says name, rule, value and, where there is one, the remedy."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nca_fast.integers import checked_integer, checked_origin
from nca_fast.rule import Rule

_STATE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_RANGES = {
    "seed": (0, 2**64 - 1),
    "canvas_height": (1, 2**32),
    "checkpoint_every": (1, 2**32 - 1),
    "bptt_steps": (1, 2**32 - 1),
}


def check(
    x: Tensor,
    weights,
    rule: Rule,
    fire_rate: Tensor | None,
    noise: float | Tensor = 1.0,
    frame: Tensor | None = None,
    **numbers: Any,
) -> dict[str, Any]:
    """Checks all arguments of `ops.rollout` or `ops.advance`, but for those of `check_ways`, backend and precision.

    Whether weights are finite, `check_finite` says.

    Returns:
        The numbers as Python's.

    Raises:
        TypeError, ValueError: name, rule and value of the first that does not hold.
    """
    _check_state(x, rule)
    _check_weights(x, weights, rule)
    if fire_rate is not None:
        _check_fire_rate(x, fire_rate, rule)
    _check_noise(x, noise, rule)
    if frame is not None:
        _check_frame(x, frame, rule)
    if rule.alive_circular != (rule.padding == "circular") and numbers.get("canvas_height") is not None:
        raise ValueError(
            'canvas_height must be None where alive_padding is "zero" on a torus: a part of the canvas does not know '
            f"where the edges are, but got {numbers['canvas_height']!r}."
        )
    return _checked_numbers(x.shape[0], **numbers)


def check_ways(at: range | None, after, after_inputs, steps: int, height: int, canvas_height: int | None) -> None:
    """Checks what `ops.rollout` is told to give back and to do between its steps, on x of so many rows.

    Raises:
        TypeError, ValueError: name, rule and value of the first that does not hold.
    """
    if at is not None:
        if not isinstance(at, range):
            raise TypeError(f"at must be a range of numbers of steps that are done, or None, but got {at!r:.60}.")
        if len(at) == 0 or at.step < 1 or at[0] < 1 or at[-1] > steps:
            raise ValueError(f"at must be a rising range within 1 to {steps}, the steps, but got {at}.")
    if after is not None and not callable(after):
        raise TypeError(f"after must be a function (x, y, n, *after_inputs) -> state, or None, but got {after!r:.60}.")
    if after is not None and canvas_height is not None and canvas_height > height:
        raise ValueError(
            f"after must be None where x is a strip, {height} rows of canvas_height={canvas_height}, because nobody "
            "knows how far the function looks, and so which rows of the strip would be wrong: run the whole canvas."
        )
    if isinstance(after_inputs, Tensor) or not all(isinstance(t, Tensor) for t in after_inputs):
        raise TypeError(f"after_inputs must be a list of tensors, but got {after_inputs!r:.60}.")
    if after is None and len(after_inputs):
        raise ValueError("after_inputs must be given with a function after, but after is None.")


def checked_state(state, y: Tensor) -> Tensor:
    """Returns what the caller's function `after` made of a state y, contiguous.

    Raises:
        TypeError, ValueError: It is no state like y.
    """
    if not isinstance(state, Tensor) or state.shape != y.shape:
        got = list(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"after must return a state {list(y.shape)}, but got {got}.")
    if state.dtype != y.dtype or state.device != y.device:
        raise TypeError(f"after must return {y.dtype} on {y.device}, but got {state.dtype} on {state.device}.")
    return state.contiguous()


def _holds(condition):
    """Says whether a condition holds everywhere; True where there are no values: in compilers, fake, meta."""
    if torch.compiler.is_compiling():
        return True
    while torch._C._functorch.is_functorch_wrapped_tensor(condition):  # vmap would not let us look
        condition = torch._C._functorch.get_unwrapped(condition)
    condition = condition.all()
    return type(condition) is not Tensor or condition.is_meta or bool(condition)  # fakes have a class of their own


def _check_state(x, rule: Rule) -> None:
    """Checks that x is a state [B, C, H, W] of the rule's automaton."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [B, C, H, W], but got {type(x).__name__}.")
    _check_dense("x", x)
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be an nca_fast.Rule, but got {type(rule).__name__}.")
    if x.ndim != 4:
        raise ValueError(f"x must have shape [B, C, H, W], but got {tuple(x.shape)}.")
    if x.shape[1] != rule.channels:
        raise ValueError(f"x must have the rule's {rule.channels} channels in [B, C, H, W], but got {tuple(x.shape)}.")
    if rule.padding == "reflect" and min(x.shape[2:]) <= (reach := rule.filter_reach):
        raise ValueError(
            f"x must have more rows and columns than the {reach} that padding 'reflect' mirrors, but got "
            f"{tuple(x.shape)}."
        )
    if x.shape[0] < 1 or x.shape[2] < 1 or x.shape[3] < 1:
        raise ValueError(f"x must have at least one sample, row and column, but got {tuple(x.shape)}.")
    if x.dtype not in _STATE_DTYPES:
        raise TypeError(f"x must be float32, float64, bfloat16 or float16, but got {x.dtype}: use x.float().")


def _check_dense(name: str, tensor: Tensor) -> None:
    """Refuses tensors that are sparse, nested or of MKL-DNN, in which no kernel finds its way."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, but is {kind}: use .to_dense() (of a nested one its parts).")


def check_finite(weights, together: Tensor | None = None) -> None:
    """Checks on the CPU that all numbers of (W, b) pairs are finite: a GPU would have to wait.

    Args:
        together: All of them in one tensor, where there is one: one sum is looked at before each for itself.

    Raises:
        ValueError: A tensor holds NaN or infinity.
    """
    if together is not None and together.is_cpu and _can_be_read(together) and math.isfinite(together.detach().sum()):
        return  # a sum of finite numbers, too, may overflow
    for i, pair in enumerate(weights):
        for t in pair:
            # float8 cannot tell
            if t is not None and t.is_cpu and not _holds(torch.isfinite(t if t.element_size() > 1 else t.float())):
                raise ValueError(f"weights[{i}] must be finite, but holds NaN or infinity: the training has diverged.")


def _can_be_read(t):
    """Says whether a tensor holds numbers that Python may see: not those of compilers, transforms, fakes and meta."""
    plain = type(t) is Tensor and not torch.compiler.is_compiling()
    return plain and not t.is_meta and not torch._C._functorch.is_functorch_wrapped_tensor(t)


def _check_weights(x: Tensor, weights, rule: Rule) -> None:
    """Checks shapes, device and type of (W, b) pairs."""
    shapes = rule.weight_shapes
    pairs = isinstance(weights, (list, tuple)) and all(isinstance(w, (list, tuple)) and len(w) == 2 for w in weights)
    if not pairs:
        raise TypeError(
            "weights must be a list of (W, b) pairs of tensors, one for each layer, b None without one, but got "
            f"a {type(weights).__name__} of something else: an NCA has such a list as its .weights."
        )
    if len(weights) != len(shapes):
        first = " after the kernels of the learned filters (K, None)" if rule.learned_filters else ""
        raise ValueError(
            f"weights must hold {len(shapes)} (W, b) pairs, one for each layer{first}, but got {len(weights)}."
        )
    B = x.shape[0]
    for i, ((weight, bias), (own, of_bias)) in enumerate(zip(weights, shapes, strict=True)):
        name = f"weights[{i}]"
        for t in (weight, bias):
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"{name} must be tensors, but has a {type(t).__name__}: use torch.as_tensor.")
            if t is not None:
                _check_dense(name, t)
        if not _has_shape(weight, B, own):
            raise ValueError(f"{name}[0] must have shape {_shapes(B, own)}, but got {list(weight.shape)}.")
        if (of_bias is None) != (bias is None):
            raise ValueError(f"{name}[1] must be {'a bias' if of_bias else 'None'} by the rule, but got {bias!r:.60}.")
        if bias is not None and not _has_shape(bias, B, of_bias):
            raise ValueError(f"{name}[1] must have shape {_shapes(B, of_bias)}, but got {list(bias.shape)}.")
        for t in (weight, bias):
            if t is None:
                continue
            if t.device != x.device:
                raise ValueError(
                    f"{name} must be on the device of x, {x.device}, but got {t.device}: use .to(x.device)."
                )
            if not t.is_floating_point():
                raise TypeError(f"{name} must be floating point, but got {t.dtype}: use .dequantize() or .float().")


def _shapes(batch, own):
    """Says which shapes a tensor may have; see `_has_shape`."""
    sizes = ", ".join(map(str, own))
    return f"[{sizes}], [{batch}, {sizes}] or [T, {batch} or 1, {sizes}]"


def _has_shape(t, batch, own):
    """Says whether a tensor has its own shape, alone, for each sample, or for each step and sample (or all of them)."""
    more = t.shape[: -len(own)]
    if t.shape[-len(own) :] != own or len(more) > 2:
        return False
    return len(more) == 0 or more == (batch,) or (len(more) == 2 and more[0] > 0 and more[1] in (1, batch))


def _checked_numbers(batch, *, steps, first_step, origin, **others):
    """Returns integers that are all in their ranges; None, where it is allowed, stays None."""
    steps = checked_integer("steps", steps, 1, 2**32 - 1)
    first_step = checked_integer("first_step", first_step, 0, 2**32 - steps)
    row, column = checked_origin(origin)
    if (first := others.pop("first_sample", None)) is not None:
        # A word of the counter that draws the masks, as first_step. (A compiler's symbolic batch must not be bounded.)
        most = 2**32 - (1 if torch.compiler.is_compiling() else batch)
        first = {"first_sample": checked_integer("first_sample", first, 0, most)}
    others = {n: None if v is None else checked_integer(n, v, *_RANGES[n]) for n, v in others.items()}
    return {"steps": steps, "first_step": first_step, "origin": (row, column)} | (first or {}) | others


def _check_fire_rate(x: Tensor, fire_rate, rule: Rule) -> None:
    """Checks that fire_rate is a map [H, W], or rates by step, sample and channel, in [0, 1], beside x."""
    if not isinstance(fire_rate, Tensor) or not fire_rate.is_floating_point():
        raise TypeError(
            "fire_rate must be a floating-point tensor, [H, W] or [T, B or 1, written channels or 1, H, W], "
            f"or None, but got {fire_rate!r:.60}: Rule(fire_rate=0.5) takes one number, torch.as_tensor(..., "
            "dtype=torch.float32) makes a tensor."
        )
    _check_dense("fire_rate", fire_rate)
    size, sizes = tuple(fire_rate.shape), ((x.shape[0], 1), (rule.written, 1))
    full = len(size) == 5 and size[0] > 0 and all(n in of for n, of in zip(size[1:3], sizes, strict=True))
    if size[-2:] != x.shape[2:] or not (len(size) == 2 or full):
        H, W = x.shape[2:]
        want = f"[{H}, {W}] or [T, {x.shape[0]} or 1, {rule.written} or 1, {H}, {W}]"
        raise ValueError(f"fire_rate must have shape {want}, but got {list(size)}.")
    if fire_rate.requires_grad:
        raise ValueError("fire_rate passes no gradient, but requires it: use fire_rate.detach().")
    if fire_rate.device != x.device:
        raise ValueError(f"fire_rate must be on the device of x, {x.device}, but got {fire_rate.device}.")
    if not _holds((fire_rate >= 0) & (fire_rate <= 1)):
        low, high = fire_rate.min().item(), fire_rate.max().item()
        raise ValueError(f"fire_rate must be in [0, 1], but got values from {low} to {high}.")


def _check_noise(x: Tensor, noise, rule: Rule) -> None:
    """Checks that noise is a number or one for each sample, at least 0, beside x, and that the rule has some."""
    if isinstance(noise, Real) and not isinstance(noise, bool):
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise must be a factor of at least 0, finite, but got {noise}.")
    elif not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise TypeError(f"noise must be a number or a floating-point tensor [B], but got {noise!r:.60}.")
    elif noise.layout is not torch.strided:
        _check_dense("noise", noise)
    elif noise.shape not in ((), (x.shape[0],)):
        raise ValueError(f"noise must be a number or have shape [{x.shape[0]}], but got {list(noise.shape)}.")
    elif noise.device != x.device:
        raise ValueError(f"noise must be on the device of x, {x.device}, but got {noise.device}.")
    elif noise.requires_grad:
        raise ValueError("noise passes no gradient, but requires it: use noise.detach().")
    elif not _holds((noise >= 0) & (noise < float("inf"))):
        raise ValueError(f"noise must be at least 0 and finite, but got {noise!r:.80}.")
    if rule.state_noise == rule.update_noise == 0 and (isinstance(noise, Tensor) or noise != 1):
        raise ValueError(
            f"noise must go with a rule that has state_noise or update_noise, but this one has neither, and noise is "
            f"{noise!r:.60}."
        )


def _check_frame(x: Tensor, frame, rule: Rule) -> None:
    """Checks that frame is a vector, or one for each cell, none of them zero, beside x, and that the rule takes it."""
    if not isinstance(frame, Tensor) or not frame.is_floating_point():
        raise TypeError(
            f"frame must be a floating-point tensor [2], [2, H, W] or [B, 2, H, W], or None, but got {frame!r:.60}: "
            "nca_fast.frame(angle, scale) makes one."
        )
    _check_dense("frame", frame)
    (B, _, H, W), size = x.shape, tuple(frame.shape)
    if size not in ((2,), (2, H, W), (B, 2, H, W)):
        raise ValueError(f"frame must have shape [2], [2, {H}, {W}] or [{B}, 2, {H}, {W}], but got {list(size)}.")
    if frame.device != x.device:
        raise ValueError(f"frame must be on the device of x, {x.device}, but got {frame.device}.")
    length = frame.abs().amax(-3 if frame.ndim > 1 else 0, keepdim=True)
    if frame.is_cpu and not _holds(torch.isfinite(frame) & (length > 0)):
        raise ValueError("frame must be finite and nowhere (0, 0), for a scale is above 0, but it is.")
    check_turns(rule)


def check_turns(rule: Rule) -> None:
    """Raises ValueError for a rule whose perception a frame cannot turn."""
    kinds = rule.derivatives
    if rule.learned_filters:
        raise ValueError(
            "frame must go with fixed filters alone, because nobody knows what derivatives learned ones take, but the "
            f"rule has {rule.learned_filters} learned ones."
        )
    if kinds.others:
        names = ", ".join(f"{rule.filters[number].name!r} (number {number})" for number in kinds.others)
        raise ValueError(
            "frame must go with filters that are values, pairs of first derivatives along x and y of one scale, or "
            f"laplacians, but of the rule's these are none: {names}."
        )
    if not (kinds.pairs or kinds.laplacians):
        raise ValueError("frame must go with a rule that has derivatives among its filters, but this one has none.")
