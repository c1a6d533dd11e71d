"""Are the Triton kernels right on a GPU at real sizes, in every precision, and twice the same?

    python -m bench.gpu_parity [--out FILE]
    python -m bench.gpu_parity --smoke      tiny, without a GPU in Triton's interpreter: does the script work?

Values and every gradient against the float64 reference with the same masks, on the same GPU; at most twice the error of
plain PyTorch at the same precision. The second run of each kind is launched step by step, the third and fourth are
CUDA graphs: all must have the same bits. Of "fp16" and its like the error over a long rollout is noted too, which says
whether it may be a default. tests/test_triton.py and test_triton_graphs.py check all kinds of rules at small sizes.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.harness import RESULTS, header, write_result
from bench.large_canvas import WINDOW, windows_equal
from bench.rollout import FLOORS
from nca_fast import Rule, rollout
from nca_fast.presets import PRESETS

RULES = {
    "texture": Rule(),
    "clip": Rule(hidden=(128,)),
    "16 channels, zero padding": Rule(channels=16, padding="zero"),
    "style": PRESETS["style"]["rule"],
    "style-two-filters": PRESETS["style-two-filters"]["rule"],
    "growing": PRESETS["growing"]["rule"],
    "vae-mnist": PRESETS["vae-mnist"]["rule"],
}
SHAPES = [(4, 128, 128), (2, 257, 509), (1, 1000, 1023)]
PRECISIONS = [("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float32), ("fp16", torch.float16)]
PRECISIONS += [("bf16", torch.float32), ("bf16", torch.bfloat16)]
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
    """[y, grad_x, grad_W1, ...] of one rollout; weights are float32 at least."""
    x = x.to(dtype, copy=True).requires_grad_()
    of = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [tuple(None if t is None else t.to(of, copy=True).requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, rule, steps, seed=5, origin=(3, 2**31 - 9), **options)
    y.backward(grad_y.to(dtype))
    return [y.detach(), x.grad] + [t.grad for pair in weights for t in pair if t is not None]


def errors(got, exact) -> list[float]:
    """Norm of each difference over norm of the exact value."""
    return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True)]


def check(name: str, shape: tuple[int, int, int], precision: str, dtype: torch.dtype, steps: int) -> dict:
    """One row of the result."""
    rule = RULES[name]
    B, H, W = shape
    torch.manual_seed(B + H + W)
    weights = weights_of(rule, 0.3)
    x = (torch.randn(B, rule.channels, H, W, device=device()) * 0.5).to(dtype)
    grad_y = torch.randn_like(x)
    exact = gradients(rule, weights, x, grad_y, torch.float64, steps, backend="reference")
    plain = gradients(rule, weights, x, grad_y, dtype, steps, backend="reference", precision=precision)
    fused, *again = (
        gradients(rule, weights, x, grad_y, dtype, steps, backend="triton", precision=precision) for _ in range(4)
    )
    errors_plain, errors_fused = errors(plain, exact), errors(fused, exact)
    good = all(f <= max(2 * p, FLOORS["fp32"]) for f, p in zip(errors_fused, errors_plain, strict=True))
    same = all(torch.equal(a, b) for run in again for a, b in zip(fused, run, strict=True))
    facts = {"rule": name, "shape": shape, "precision": precision, "state": str(dtype).split(".")[1], "steps": steps}
    return facts | {"plain": errors_plain, "fused": errors_fused, "parity": good, "same_bits_always": same}


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


def check_above_2_31(side: int) -> dict:
    """A canvas of more than 2**31 numbers: windows equal those computed from a copy of their surroundings."""
    rule = Rule()
    torch.manual_seed(0)
    weights = weights_of(rule, 0.3)

    def step(x, origin):
        return rollout(x, weights, rule, 1, seed=1, origin=origin, backend="triton", precision="fp16")

    x = torch.rand(1, 12, side, side, device=device())
    windows = [(0, 0), (side // 2, 123), (side - WINDOW, side - WINDOW)]
    equal = windows_equal(x, step(x, (0, 0)), windows, step)
    return {"numbers": x.numel(), "windows_equal": equal}


def rows(name: str, precision: str, dtype: torch.dtype, smoke: bool) -> list[dict]:
    """The rows of a rule in a precision, for all shapes."""
    rows = []
    for i, shape in enumerate([(1, 3, 5)] if smoke else SHAPES):
        steps = 2 if smoke else STEPS if i else GRAPH_STEPS
        try:
            row = check(name, shape, precision, dtype, steps)
        except ValueError as refused:  # what a kernel does not serve
            row = {"rule": name, "shape": shape, "precision": precision, "refused": str(refused)}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_parity.json", help="result file")
    jobs = max(1, min(8, (os.cpu_count() or 1) // 2))
    parser.add_argument("--jobs", type=int, default=jobs, help="processes, because compiling takes most of the time")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU in the interpreter")
    options = parser.parse_args()
    if options.smoke and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        parser.error("this needs a GPU that torch sees, but there is none.")
    precisions, rules = PRECISIONS, list(RULES)
    if options.smoke:
        precisions, rules = [("fp16", torch.float32)], ["texture", "growing"]
    result = {"header": header() | {"gpu": torch.cuda.get_device_name() if device() == "cuda" else None}, "rows": []}
    red = 0
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as processes:
        runs = [processes.submit(rows, name, *kind, options.smoke) for name in rules for kind in precisions]
        for run in as_completed(runs):
            for row in run.result():
                good = "refused" in row or (row["parity"] and row["same_bits_always"])
                red += not good
                result["rows"].append(row)
                facts = row["rule"], row["shape"], row["precision"], row.get("state", "refused")
                print("green" if good else "RED  ", *facts, f"{max(row.get('fused', [0])):.1e}", flush=True)
            write_result(options.out, result)
    result["long"] = [long_rollout(p, *((4, 2) if options.smoke else (128, 64))) for p in dict(precisions)]
    write_result(options.out, result)
    if options.smoke:
        return
    result["above_2_31"] = check_above_2_31(16384)
    print(result["above_2_31"])
    write_result(options.out, result)
    if red or not all(result["above_2_31"]["windows_equal"]):
        sys.exit(f"{red} of {len(result['rows'])} are red")


if __name__ == "__main__":
    main()
