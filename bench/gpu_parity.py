"""Are the Triton kernels right on a GPU at real sizes, in every precision, and twice the same?

    python -m bench.gpu_parity [--out FILE]
    python -m bench.gpu_parity --smoke      tiny, without a GPU in Triton's interpreter: does the script work?

Values and every gradient against the float64 reference with the same masks, on the same GPU; at most twice the error of
plain PyTorch at the same precision, or `FLOORS`. The second run of each kind is launched step by step, the third and
fourth are CUDA graphs: all must have the same bits. Of "fp16" and its like the error over a long rollout is noted too,
which says whether it may be a default. tests/test_triton.py and test_triton_graphs.py check all kinds of rules at small
sizes, bench/gpu_large.py states of more than 2**31 numbers.

Kernels are compiled by many processes, but at most three at once hold what the float64 reference needs.
"""

import argparse
import contextlib
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

import nca_fast
from bench.harness import RESULTS, Rows
from nca_fast import Rule, rollout
from nca_fast.presets import PRESETS
from nca_fast.profiling.parity import FLOORS

RULES = {
    "texture": Rule(),
    "clip": Rule(hidden=(128,)),
    "16 channels, zero padding": Rule(channels=16, padding="zero"),
    "style": PRESETS["style"]["rule"],
    "style-two-filters": PRESETS["style-two-filters"]["rule"],
    "growing": PRESETS["growing"]["rule"],
    "vae-mnist": PRESETS["vae-mnist"]["rule"],
}
FRAMED = {
    "texture, frames": Rule(),
    "sobel_x7, frames": Rule(filters=("identity", "sobel_x7", "sobel_y7", "laplacian")),
}
RULES |= FRAMED  # every cell with a frame of its own
SHAPES = [(4, 128, 128), (2, 257, 509), (1, 337, 1023)]  # the latter ragged in both directions
PRECISIONS = [("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float32), ("fp16", torch.float16)]
PRECISIONS += [("bf16", torch.float32), ("bf16", torch.bfloat16)]
REFERENCES = 3  # processes that hold what the float64 reference needs, at most
STEPS, GRAPH_STEPS = 3, 6  # 6 on the first shape, which is small enough for graphs; more would let errors grow


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def weights_of(rule: Rule, scale: float) -> list:
    """Random weights; `scale` is that of the outputs of a layer."""
    return [
        (
            torch.randn(o, i, device=device()) * (scale / i**0.5),
            torch.randn(o, device=device()) * 0.1 if bias else None,
        )
        for o, i, bias in rule.layers
    ]


def gradients(rule, weights, x, grad_y, dtype, steps, **options) -> list[torch.Tensor]:
    """[y, grad_x, grad_W1, ..., that of a frame if there is one] of one rollout; weights are float32 at least."""
    x = x.to(dtype, copy=True).requires_grad_()
    of = torch.float64 if dtype == torch.float64 else torch.float32
    frame = {name: options[name].to(of, copy=True).requires_grad_() for name in options if name == "frame"}
    weights = [tuple(None if t is None else t.to(of, copy=True).requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, rule, steps, seed=5, origin=(3, 2**31 - 9), **options | frame)
    y.backward(grad_y.to(dtype))
    return [y.detach(), x.grad] + [t.grad for pair in [*weights, frame.values()] for t in pair if t is not None]


def errors(got, exact) -> list[float]:
    """Norm of each difference over norm of the exact value."""
    return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True)]


_turn = contextlib.nullcontext()  # who has it may run the reference


def _take_turns(semaphore):
    global _turn
    _turn = semaphore
    torch.set_num_threads(1)


def states_and_weights(rule: Rule, shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, list]:
    """Random ones. Where there is an alive mask, no cell is so near to its threshold that rounding decides over it."""
    B, H, W = shape
    torch.manual_seed(B + H + W)
    weights = weights_of(rule, 0.3)
    x = torch.randn(B, rule.channels, H, W, device=device()) * 0.5
    if rule.alive_channel is not None:
        alpha, last = x[:, rule.alive_channel], rule.alive_channel - rule.frozen
        alpha += torch.where(alpha > 0, 0.3, -0.3)
        for t in weights[-1]:
            if t is not None:
                t[last] *= 0.02
    return x.to(dtype), weights


def check(name: str, shape: tuple[int, int, int], precision: str, dtype: torch.dtype, steps: int) -> dict:
    """One row of the result."""
    rule = RULES[name]
    x, weights = states_and_weights(rule, shape, dtype)
    grad_y, fields = torch.randn_like(x), {}
    if name in FRAMED:
        angle, scale = (torch.rand(shape, device=device()) for _ in range(2))
        fields = {"frame": nca_fast.frame(6.3 * angle, 0.5 + scale)}
    how = {"backend": "triton", "precision": precision} | fields
    fused, *again = (gradients(rule, weights, x, grad_y, dtype, steps, **how) for _ in range(4))
    same = all(torch.equal(a, b) for run in again for a, b in zip(fused, run, strict=True))
    del again
    with _turn:
        one_step = {"backend": "reference", "checkpoint_every": 1} | fields  # the memory of one
        exact = gradients(rule, weights, x, grad_y, torch.float64, steps, **one_step)
        plain = gradients(rule, weights, x, grad_y, dtype, steps, precision=precision, **one_step)
        errors_plain, errors_fused = errors(plain, exact), errors(fused, exact)
        dead = [(y[:, rule.frozen :] == 0).all(1) for y in (exact[0], fused[0], plain[0])]
        flips = [int((dead[0] != d).sum()) for d in dead[1:]] if rule.alive_channel is not None else [0, 0]
        del exact, plain, dead
        if device() == "cuda":
            torch.cuda.empty_cache()
    good = all(f <= max(2 * p, FLOORS[precision]) for f, p in zip(errors_fused, errors_plain, strict=True))
    # A cell that rounding lets live has an error of its own size: then the errors say nothing.
    parity = good if not any(flips) else "not judged: cells live or die by rounding"
    return {"plain": errors_plain, "fused": errors_fused, "parity": parity, "flips": flips, "same_bits_always": same}


def long_rollout(precision: str, side: int, steps: int) -> dict:
    """Errors of the state and of the gradients after many steps, which are those of the precision, and of chance."""
    rule = RULES["texture"]
    torch.manual_seed(0)
    weights = weights_of(rule, 0.1)
    x = torch.randn(1, rule.channels, side, side, device=device()) * 0.3
    arguments = (rule, weights, x, torch.randn_like(x))
    exact = gradients(*arguments, torch.float64, steps, backend="reference", checkpoint_every=8)
    got = gradients(*arguments, torch.float32, steps, backend="triton", precision=precision)
    return {"precision": precision, "side": side, "steps": steps, "errors": errors(got, exact)}


def job(kind: str, name: str, precision: str, dtype: torch.dtype, shape: tuple[int, int, int], steps: int, end: float):
    """(facts, row or None, error) of a row, in a process of the pool."""
    facts = {"rule": name, "shape": shape, "precision": precision, "state": str(dtype).split(".")[1], "steps": steps}
    if time.time() > end:
        return facts, None, "no time was left"
    try:
        if kind == "long":
            return facts | {"kind": kind}, long_rollout(precision, shape[1], steps), None
        return facts, check(name, shape, precision, dtype, steps), None
    except Exception as error:
        return facts, None, f"{type(error).__name__}: {error}"[:600]


def jobs_of(smoke: bool):
    """(kind, rule, precision, dtype, shape, steps) of all rows, what matters most first."""
    if smoke:
        for name in ("texture", "growing", "texture, frames"):
            yield "check", name, "fp16", torch.float32, (1, 3, 5), 2
        yield "long", "texture", "fp16", torch.float32, (1, 4, 4), 2
        return
    for precision in dict(PRECISIONS):
        yield "long", "texture", precision, torch.float32, (1, 128, 128), 64
    for precision, dtype in sorted(PRECISIONS, key=lambda kind: kind[0] != "fp16"):
        for name in RULES:
            for i, shape in enumerate(SHAPES):
                yield "check", name, precision, dtype, shape, STEPS if i else GRAPH_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_parity.json", help="result file")
    jobs = max(1, min(12, (os.cpu_count() or 1) - 2))
    parser.add_argument("--jobs", type=int, default=jobs, help="processes, because compiling takes most of the time")
    parser.add_argument("--seconds", type=float, help="leave out what has not begun by then")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU in the interpreter")
    options = parser.parse_args()
    if options.smoke and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        parser.error("this needs a GPU that torch sees, but there is none.")
    rows, context = Rows(options.out), get_context("spawn")
    end = time.time() + (options.seconds or 1e9)
    turns = context.BoundedSemaphore(REFERENCES)
    with ProcessPoolExecutor(options.jobs, context, initializer=_take_turns, initargs=(turns,)) as processes:
        for run in as_completed([processes.submit(job, *arguments, end) for arguments in jobs_of(options.smoke)]):
            try:
                facts, row, error = run.result()
            except Exception as broken:  # a process died and took the pool with it
                rows.keep({"error": repr(broken)[:300]}, good=False)
                continue
            if row is not None:
                rows.keep(facts | row, row.get("parity", True) is not False and row.get("same_bits_always", True))
            elif "cannot serve" in error:
                rows.keep(facts | {"refused": error})
            else:
                rows.keep(facts | {"error": error}, good=error == "no time was left")
    rows.end_run()


if __name__ == "__main__":
    main()
