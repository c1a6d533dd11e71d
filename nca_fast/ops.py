"""The one operation: `rollout`, a whole run of an automaton as one autograd node; and `advance`, the same in place."""

import torch
from torch import Tensor

from nca_fast import arguments, backends, operators
from nca_fast.backends import Place
from nca_fast.fire_masks import drawn_seed, threshold
from nca_fast.rule import Rule


def rollout(
    x: Tensor,
    weights: list[tuple[Tensor, Tensor | None]],
    rule: Rule,
    steps: int,
    *,
    seed: int | None = None,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    first_sample: int = 0,
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    backend: str | None = None,
    precision: str | None = None,
    checkpoint_every: int | None = None,
    bptt_steps: int | None = None,
) -> Tensor:
    """Runs `steps` updates of all cells; differentiable once in x and the weights.

    The fire masks depend on (seed, step, sample, row, column) alone, so two rollouts of 10 steps with the same seed,
    the second with `first_step=10`, give the same numbers as one of 20, and parts of a canvas the same as the whole.
    Without a seed every call has masks of its own, as with dropout.

    Transforms of torch.func (grad, vjp, jacrev, vmap over states or weights) work; vmap runs one rollout after another,
    for which weights [B, out, in] are the faster way, and wants its `randomness` where a seed is drawn.

    Errors of the precisions on a grown texture, as norms against float64 (bench/precision.py, by the reference): after
    one step and after 96 the state is off by 3e-8 and 9e-7 in "fp32", 4e-5 and 1.5e-3 in "tf32" and "fp16", 3e-4 and
    6e-3 in "bf16"; 4e-3 is one level of a picture. The gradient of the weights is off by 2 % after one step in "tf32"
    and "fp16" (8 % in "bf16") and by 14 % after 32 (25 %), because units switch on and off elsewhere; "fp32": 1e-3.
    In "fp16" the kernels scale filters and weights by powers of two, so that no product overflows as long as no number
    of the state exceeds 32768 (a laplacian, 24 times a value, would from 2730 on); beyond, cells become infinite or NaN
    and so do their neighbours, step by step: a state that blows up is seen sooner than in the others, which go on to
    1e37. The reference in "fp16" rounds as it is told and overflows at 65504.

    A process that is forked after a rollout on a CPU takes one thread, because OpenMP does not survive a fork; for more
    threads start it with "spawn" or "forkserver".

    On a GPU steps on small states are replayed as CUDA graphs. Inside a capture of the caller they are launched one by
    one, and the caller's replays repeat the seed of the capture, given or drawn, and so its masks.

    Args:
        x: The states of all cells. [B, C, H, W]; float32, bfloat16, float16, rounded after each step, or float64 (by
            convolutions or the reference).
        weights: A pair (W, b) for every layer, first to last: W [out, in] or, one rule per sample, [B, out, in];
            b [out] or [B, out], or None where the rule has no bias. Inputs of the first layer are ordered
            filter by filter: index f * C + c. Finite (looked at on the CPU only: a GPU would have to wait for it).
        rule: What a step is.
        steps: Number of updates. At least 1.
        seed: Fixes all fire masks. 0 to 2**64 - 1. None, as dropout, draws one at each call from PyTorch's default
            generator of the CPU, which `torch.manual_seed` sets: it waits for no GPU; a compiled function draws at
            every call, `torch.utils.checkpoint` finds the same masks again (`preserve_rng_state`), processes draw
            what their own generators give. Nothing is drawn where the rule's fire rate is 0 or 1.
        first_step: Number of the first step. At least 0.
        origin: Row and column of x's first cell in the whole canvas, in cells. At least 0.
        first_sample: Number of x's first sample in the whole batch. At least 0.
        canvas_height: Rows of the whole canvas, where x wraps around it: after its last row x goes on with its row 0.
            For a strip of a torus with some rows above the first; None where x does not wrap.
        fire_rate: A map [H, W] in [0, 1] instead of the rule's single number: parts of a canvas at different speeds.
        backend: "reference", "convolutions", "cpu" or "triton"; None picks the fused kernel of x's device. Where that
            cannot serve (a GPU older than Ampere, a rule too wide, float64) it says so once and picks "convolutions":
            PyTorch's own operations, in no more passes over memory than an automaton written in them takes.
        precision: What the matrix products multiply: "fp32", "tf32", "fp16" or "bf16", see above. Accumulation is
            float32, the state keeps the type of x, and autocast changes neither. None gives what stock convolutions
            give: on a CPU "fp32"; on a GPU, where they use TF32, "fp16", which has as many bits after the point and
            costs a third of it in our kernels, or "fp32" if TF32 is forbidden to convolutions
            (`torch.backends.cudnn.conv.fp32_precision`, `torch.backends.cudnn.allow_tf32`). The reference and
            convolutions take None as "fp32" on every device.
        checkpoint_every: For the gradient keep only every k-th state and recompute those between; None keeps all.
        bptt_steps: Truncates: only the last k steps pass gradient, and x receives none. None passes it through all.

    Returns:
        The states after the last step. [B, C, H, W], type and device of x.

    Raises:
        TypeError, ValueError: name, rule and value of the first argument that does not hold, or a backend that was
            asked for by name and cannot serve.
        RuntimeError: a second derivative or forward mode is asked of a kernel (use backend="reference"), or
            backend="cpu" is asked for and the kernel cannot be compiled.
    """
    where = {"seed": seed, "first_step": first_step, "origin": origin, "canvas_height": canvas_height}
    where["first_sample"] = first_sample
    saved = {"checkpoint_every": checkpoint_every, "bptt_steps": bptt_steps}
    where = arguments.check(x, weights, rule, fire_rate, steps=steps, **where, **saved)
    steps, saved = where.pop("steps"), {name: where.pop(name) for name in saved}
    backend, precision = backends.choose(backend, rule, x, precision)
    if backend in backends.PLAIN:
        return _plainly(backend, x, weights, rule, steps, fire_rate=fire_rate, precision=precision, **where, **saved)
    params, drawn, fire, place = _kernel_inputs(x, weights, rule, fire_rate, **where)
    checkpoint_every, bptt_steps = saved.values()
    passed = steps if bptt_steps is None else min(bptt_steps, steps)
    settings = (rule.to_json(), backend, precision, steps, checkpoint_every or 1, passed, list(place))
    return operators.rollout(x.contiguous(), params, drawn, fire, *settings)


@torch.no_grad()
def advance(
    x: Tensor,
    spare: Tensor,
    weights: list[tuple[Tensor, Tensor | None]],
    rule: Rule,
    steps: int,
    *,
    seed: int | None = None,
    first_step: int = 0,
    origin: tuple[int, int] = (0, 0),
    canvas_height: int | None = None,
    fire_rate: Tensor | None = None,
    backend: str | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs `steps` updates without gradients in two buffers that take turns: for canvases that fill the memory.

    The numbers are those of `rollout`, bit for bit; that one may not touch its input, so it holds three states at once.

    Args:
        x: The state; overwritten, but by a single step. [B, C, H, W], contiguous.
        spare: A buffer like x; overwritten.
        The others as in `rollout`.

    Returns:
        The buffer that holds the result, and the other one.

    Raises:
        TypeError, ValueError: As `rollout`; or spare is not a buffer like x.
    """
    if spare.shape != x.shape or spare.dtype != x.dtype or not (spare.is_contiguous() and x.is_contiguous()):
        raise ValueError(f"spare must be a buffer like x, {list(x.shape)}, but got {list(spare.shape)}.")
    where = {"seed": seed, "first_step": first_step, "origin": origin, "canvas_height": canvas_height}
    where = arguments.check(x, weights, rule, fire_rate, steps=steps, **where)
    steps = where.pop("steps")
    backend, precision = backends.choose(backend, rule, x, precision)
    if backend in backends.PLAIN:
        y = _plainly(backend, x, weights, rule, steps, fire_rate=fire_rate, precision=precision, **where)
        return spare.copy_(y), x
    params, drawn, fire, place = _kernel_inputs(x, weights, rule, fire_rate, **where)
    place = operators.seeded(place, drawn)
    kernels, kernel_rule = backends.kernels(backend), rule.kernel_rule
    packed, state = kernels.pack_weights(params, kernel_rule, precision), kernels.to_layout(x)
    if state is not x:  # a copy in the kernels' own layout, on which all steps are one call
        y = torch.empty_like(state)
        kernels.advance(state, packed, fire, kernel_rule, place, y[None], steps)
        return spare.copy_(kernels.from_layout(y, rule.channels)), x
    for n in range(steps):
        kernels.advance(x, packed, fire, kernel_rule, place.after(n), spare[None], 1)
        x, spare = spare, x
    return x, spare


def _plainly(backend, x, weights, rule, steps, **options):
    kind = "cpu" if x.is_meta else x.device.type
    with torch.autocast(kind, enabled=False):  # which would round what `precision` leaves alone
        return backends.PLAIN[backend].rollout(x, weights, rule, steps, **options)


def _kernel_inputs(x, weights, rule, fire_rate, *, seed, first_step, origin, canvas_height, first_sample=0):
    """Makes (all weights in a row, drawn seed or None, threshold of firing, place) of the arguments of a call."""
    per_sample = any(w.ndim == 3 or (b is not None and b.ndim == 2) for w, b in weights)
    params = _flat(weights, x.shape[0] if per_sample else None)
    rate = rule.fire_rate if fire_rate is None else fire_rate
    seed = drawn_seed(rate) if seed is None else seed
    drawn, seed = (seed, 0) if isinstance(seed, Tensor) else (None, seed - 2**64 if seed >= 2**63 else seed)
    place = Place(seed, first_step, *origin, first_sample, canvas_height or 2**32)
    return params, drawn, threshold(rate, x.device), place


def _flat(weights, batch):
    """Puts all weights and biases in a row, float32: [P], or [batch, P] for one rule per sample (batch not None)."""
    tensors = [
        (t.to(torch.float32), ndim) for pair in weights for t, ndim in zip(pair, (2, 1), strict=True) if t is not None
    ]
    if batch is None:
        return torch.cat([t.reshape(-1) for t, _ in tensors])
    rows = [(t if t.ndim > ndim else t.expand(batch, *t.shape)).reshape(batch, -1) for t, ndim in tensors]
    return torch.cat(rows, dim=1)
