"""The one operation: `rollout`, a whole run of an automaton as one autograd node; and `advance`, the same in place."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nca_fast import arguments, backends, between, operators, running
from nca_fast.backends import Place
from nca_fast.fire_masks import drawn_seed, threshold
from nca_fast.frames import as_field
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
    noise: float | Tensor = 1.0,
    frame: Tensor | None = None,
    at: range | None = None,
    after: Callable[..., Tensor] | None = None,
    after_inputs: Sequence[Tensor] = (),
    backend: str | None = None,
    precision: str | None = None,
    checkpoint_every: int | None = None,
    bptt_steps: int | None = None,
) -> Tensor:
    """Runs `steps` updates of all cells; differentiable once in x, the weights and the frame.

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
    1e37. Hidden units of elu, gelu and silu cannot be scaled and overflow at 65504: such rules are not multiplied in
    "fp16" unless they ask for it. The reference in "fp16" rounds as it is told and overflows at 65504.

    The error of the kernels, of values and of every gradient, as the norm of the difference over the norm of the
    tensor, is at most twice that of plain PyTorch at the same precision, or 3e-7, in the median over states. On one
    state the sum of a few terms that cancel may be further off, in either (bench/faults/rollouts.py tries hundreds).

    Infinity and NaN of a state that blew up may reach fewer cells by the C++ kernel, which multiplies by no taps of 0,
    than in the reference, and none from a channel that no unit looks at.

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
            Before them, where the rule has L learned filters, their kernels: (K, None) with K [L, C, 3, 3] or
            [B, L, C, 3, 3]. Each may have an axis of steps too, W [T, B or 1, out, in], b [T, B or 1, out] and K
            [T, B or 1, L, C, 3, 3]: step n takes entry n modulo T. (A clock is a bias that changes from step to step,
            Dropout2d a rule for each sample and step.)
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
            Or rates by step, sample and channel, [T, B or 1, channels - frozen or 1, H, W]: step n takes entry n modulo
            T. Rates of 0 and 1 are a mask of the caller's.
        noise: A factor of the rule's state_noise and update_noise: a number, or one for each sample, [B]. At least 0.
        frame: A vector (a, b) = scale (cos angle, sin angle) for all cells, [2], or for each, [2, H, W] or
            [B, 2, H, W]: by this angle, counterclockwise, what cells draw is turned, and so many times as large it is.
            Of the filters' answers pairs g_x, g_y of first derivatives become a g_x - b g_y and b g_x + a g_y,
            laplacians are multiplied by a^2 + b^2, and values and local maxima stay as they are.
            `nca_fast.frame(angle, scale)` makes it of radians. Finite, nowhere (0, 0) (looked at on the CPU only).
            Rules with other filters, or learned ones, are refused. None is (1, 0). The Triton kernels have none: on a
            GPU convolutions serve.
        at: Numbers of steps that are done, a range from 1 to `steps`: the states then are returned, each with its
            gradient, in place of the last one. (`states[stops - at.start, arange(B)]` are states of samples that stop
            each at a step of its own.) Saved states serve as checkpoints.
        after: What is done between the steps: after(x, y, n, *after_inputs) -> state, where step n has led from state x
            to y, tensors [B, C, H, W], which it leaves as they are. What it computes is kept for the gradient, as
            PyTorch would. Refused where x is a strip of a larger canvas (canvas_height), for nobody knows how far it
            looks. With checkpoint_every it runs again in the backward pass, so it may draw nothing there but by
            `nca_fast.fire_mask` and `nca_fast.normal`. Of what it takes from elsewhere only after_inputs get gradients.
            torch.compile breaks the graph there.
        after_inputs: Tensors that `after` is given and whose gradients are wanted.
        backend: "reference", "convolutions", "cpu" or "triton"; None picks the fused kernel of x's device. Where that
            cannot serve (a GPU older than Ampere, a rule too wide, float64) it says so once and picks "convolutions":
            PyTorch's own operations, in no more passes over memory than an automaton written in them takes.
        precision: What the matrix products multiply: "fp32", "tf32", "fp16" or "bf16", see above. Accumulation is
            float32, the state keeps the type of x, and autocast changes neither (but a backward pass inside it, which
            PyTorch advises against, rounds products of the reference and of convolutions). None gives what stock
            convolutions give: on a CPU "fp32"; on a GPU, where they use TF32, "fp16", which has as many bits after the
            point and costs a third of it in our kernels ("tf32" for rules with elu, gelu or silu, "fp32" for those of
            two hidden layers), or "fp32" if TF32 is forbidden to convolutions
            (`torch.backends.cudnn.conv.fp32_precision`, `torch.backends.cudnn.allow_tf32`). The reference and
            convolutions take None as "fp32" on every device.
        checkpoint_every: For the gradient keep only every k-th state and recompute those between; None keeps all, and
            what `after` computed.
        bptt_steps: Truncates: only the last k steps pass gradient, and x receives none. None passes it through all.

    Returns:
        The states after the last step. [B, C, H, W], type and device of x; with `at`, [len(at), B, C, H, W].

    Raises:
        TypeError, ValueError: name, rule and value of the first argument that does not hold, or a backend that was
            asked for by name and cannot serve.
        RuntimeError: a second derivative or forward mode is asked of a kernel (use backend="reference"), or
            backend="cpu" is asked for and the kernel cannot be compiled.
    """
    where = {"seed": seed, "first_step": first_step, "origin": origin, "canvas_height": canvas_height}
    where["first_sample"] = first_sample
    saved = {"checkpoint_every": checkpoint_every, "bptt_steps": bptt_steps}
    where = arguments.check(x, weights, rule, fire_rate, noise, frame, steps=steps, **where, **saved)
    steps, saved = where.pop("steps"), {name: where.pop(name) for name in saved}
    arguments.check_ways(at, after, after_inputs, steps, x.shape[2], canvas_height)
    backend, precision = backends.choose(backend, rule, x, precision, _uses(weights, rule, fire_rate, frame))
    if backend in backends.PLAIN:
        arguments.check_finite(weights)
        ways = {"at": at, "after": after, "after_inputs": after_inputs}
        fields = {"fire_rate": fire_rate, "noise": noise, "frame": frame}
        options = {"precision": precision} | fields | where | saved | ways
        return _plainly(backend, x, weights, rule, steps, **options)
    if isinstance(noise, Tensor) and operators.is_dual(noise):
        operators.no_forward_mode()
    given, (rule, weights) = weights, backends.as_served(backend, rule, weights)
    params, drawn, fire, factor, place = _kernel_inputs(x, weights, rule, fire_rate, noise, **where)
    arguments.check_finite(given, params)
    field = _kernel_field(x, frame)
    checkpoint_every, bptt_steps = saved.values()
    passed = steps if bptt_steps is None else min(bptt_steps, steps)
    # Nothing of what is cut off has a gradient. (Transforms find out themselves, or refuse.)
    if bptt_steps is not None and bptt_steps < steps and not operators.is_transformed(x, params):
        x = x.detach()
        if at is not None and at[-1] <= steps - bptt_steps:
            params, after_inputs = params.detach(), [t.detach() for t in after_inputs]
            field = None if field is None else field.detach()
    given = (x.contiguous(), params, drawn, fire, factor, field)
    if after is not None:
        settings = (rule, backend, precision, steps, checkpoint_every, passed, place, at)
        return between.rollout(*given, settings, after, after_inputs)
    settings = (rule.to_json(), backend, precision, steps, checkpoint_every or 1, passed, list(place))
    return operators.rollout(*given, *settings, [] if at is None else [at.start, len(at), at.step])


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
    frame: Tensor | None = None,
    after: None = None,
    backend: str | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs `steps` updates without gradients in two buffers that take turns: for canvases that fill the memory.

    The numbers are those of `rollout`, bit for bit; that one may not touch its input, so it holds three states at once.

    Args:
        x: The state; overwritten, but by a single step. [B, C, H, W], contiguous.
        spare: A buffer like x; overwritten.
        after: None; a function is refused.
        The others as in `rollout`.

    Returns:
        The buffer that holds the result, and the other one.

    Raises:
        TypeError, ValueError: As `rollout`; or spare is not a buffer like x.
    """
    if after is not None:
        raise ValueError(
            "after must be None in advance, and so on canvases, in strips and in several processes, because nobody "
            "knows how far a function between the steps looks, so how many rows it needs around a strip: use rollout."
        )
    if spare.shape != x.shape or spare.dtype != x.dtype or not (spare.is_contiguous() and x.is_contiguous()):
        raise ValueError(f"spare must be a buffer like x, {list(x.shape)}, but got {list(spare.shape)}.")
    where = {"seed": seed, "first_step": first_step, "origin": origin, "canvas_height": canvas_height}
    where = arguments.check(x, weights, rule, fire_rate, frame=frame, steps=steps, **where)
    steps = where.pop("steps")
    backend, precision = backends.choose(backend, rule, x, precision, _uses(weights, rule, fire_rate, frame))
    if backend in backends.PLAIN:
        arguments.check_finite(weights)
        options = {"fire_rate": fire_rate, "frame": frame, "precision": precision} | where
        y = _plainly(backend, x, weights, rule, steps, **options)
        return spare.copy_(y), x
    given, (rule, weights) = weights, backends.as_served(backend, rule, weights)
    params, drawn, fire, factor, place = _kernel_inputs(x, weights, rule, fire_rate, 1.0, **where)
    arguments.check_finite(given, params)
    if operators.is_transformed(x, params):
        raise RuntimeError("advance works in place, and cannot be transformed by torch.func: use rollout.")
    place = running.seeded(place, drawn)
    kernels, kernel_rule = backends.kernels(backend), rule.kernel_rule
    packed = running.packed(kernels, params, kernel_rule, precision, factor, _kernel_field(x, frame))
    state = kernels.to_layout(x)
    if state is not x:  # a copy in the kernels' own layout, on which all steps are one call
        y = torch.empty_like(state)
        kernels.advance(state, packed, fire, kernel_rule, place, y[None], steps)
        return spare.copy_(kernels.from_layout(y, rule.channels)), x
    at_once = kernels.steps_at_once(x, packed, fire, kernel_rule, place)
    for n in range(0, steps, at_once):
        kernels.advance(x, packed, fire, kernel_rule, place.after(n), spare[None], min(at_once, steps - n))
        x, spare = spare, x
    return x, spare


def _plainly(backend, x, weights, rule, steps, **options):
    kind = "cpu" if x.is_meta else x.device.type
    with torch.autocast(kind, enabled=False):  # which would round what `precision` leaves alone
        return backends.PLAIN[backend].rollout(x, weights, rule, steps, **options)


def _tensors(weights, rule):
    """Lists all weights in a row, each with the number of its own axes: those after steps and samples."""
    pairs = zip(weights, rule.weight_shapes, strict=True)
    return [(t, len(own)) for pair, shapes in pairs for t, own in zip(pair, shapes, strict=True) if t is not None]


def _uses(weights, rule, fire_rate, frame):
    """Names what a call asks for that not all kernels serve."""
    uses = [] if frame is None else ["frames"]
    if any(t.ndim == ndim + 2 for t, ndim in _tensors(weights, rule)):
        uses.append("weights by step")
    if fire_rate is not None and fire_rate.ndim == 5:
        uses.append("fire rates by step, sample and channel")
    return tuple(uses)


def _kernel_inputs(x, weights, rule, fire_rate, noise, *, seed, first_step, origin, canvas_height, first_sample=0):
    """Makes of the arguments of a call what kernels take.

    Returns:
        All weights in a row; the drawn seed, or None; the threshold of firing; the factor of noise, float32 [1] or [B],
        or None where the rule has none; the place.
    """
    noisy = rule.state_noise > 0 or rule.update_noise > 0
    rate = rule.fire_rate if fire_rate is None else fire_rate
    seed = drawn_seed(rate, noisy) if seed is None else seed
    drawn, seed = (seed, 0) if isinstance(seed, Tensor) else (None, seed - 2**64 if seed >= 2**63 else seed)
    place = Place(seed, first_step, *origin, first_sample, canvas_height or 2**32)
    factor = None
    if noisy:
        factor = noise if isinstance(noise, Tensor) else torch.full((), noise, dtype=torch.float32, device=x.device)
        factor = factor.detach().to(torch.float32).reshape(-1).contiguous()
    return _flat(_tensors(weights, rule), x.shape[0]), drawn, threshold(rate, x.device).contiguous(), factor, place


def _kernel_field(x, frame):
    """Makes of frames what kernels take: float32 [1 or B, 2, H, W], contiguous, or None."""
    if frame is None:
        return None
    field = as_field(frame).to(torch.float32)
    return field.expand(len(field), 2, *x.shape[2:]).contiguous()


def _flat(tensors, batch):
    """Puts all weights and biases in a row, float32: [P]; one rule per sample: [batch, P]; by step: [T, batch or 1, P].

    T is the least number of steps after which all that have an axis of steps begin anew.
    """
    tensors = [(t.to(torch.float32), ndim) for t, ndim in tensors]
    leads = [t.shape[: t.ndim - ndim] for t, ndim in tensors]
    if all(len(lead) == 0 for lead in leads):
        return torch.cat([t.reshape(-1) for t, _ in tensors])
    if all(len(lead) < 2 for lead in leads):
        rows = [(t if t.ndim > ndim else t.expand(batch, *t.shape)).reshape(batch, -1) for t, ndim in tensors]
        return torch.cat(rows, dim=1)
    period = math.lcm(*(lead[0] for lead in leads if len(lead) == 2))
    samples = batch if any(lead and lead[-1] != 1 for lead in leads) else 1
    rows = []
    for (t, _), lead in zip(tensors, leads, strict=True):
        if len(lead) == 2 and lead[0] < period:
            t = t[torch.arange(period, device=t.device) % lead[0]]
        t = t.flatten(len(lead)) if len(lead) else t.reshape(1, -1)
        rows.append(t.expand(period, samples, -1))
    return torch.cat(rows, dim=2)
