"""Are states of more than 2**31 numbers right, forward and backward, in a batch of two?

    python -m bench.gpu_large [--out FILE]
    python -m bench.gpu_large --smoke      tiny, without a GPU in Triton's interpreter: does the script work?

Where a 32-bit offset would have overflowed, windows of the state after a step and of the gradient of the one before
must equal, bit for bit, what their surroundings alone give; the gradient of the weights must be the sum of those of
bands, each below 2**31 numbers. Both ways of the kernels; float16 states, so that all of it fits into 80 GB.
"""

import argparse
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.harness import RESULTS, Rows
from nca_fast import Rule, rollout

# (rule, side of a canvas so that two have more than 2**31 numbers)
CASES = {
    "single pass": (Rule(), 9500),
    "through memory": (
        Rule(channels=4, hidden=(8,), filters=("identity", "sobel_x5"), maximum_window=3, alive_channel=3),
        16500,
    ),
}
SUM_ERROR = 1e-4  # of sums of the same products in another order; the fewer cells, the less it averages out


def step(rule: Rule, weights: list, x: Tensor, grad_y: Tensor, side: int, sample: int, row: int, column: int) -> list:
    """[state after a step, gradient of x, gradients of the weights] of a part of the canvases."""
    x = x.clone().requires_grad_()
    weights = [tuple(None if t is None else t.clone().requires_grad_() for t in pair) for pair in weights]
    where = {"first_sample": sample, "origin": (row % side, column), "canvas_height": side}
    y = rollout(x, weights, rule, 1, seed=1, backend="triton", precision="fp16", **where)
    y.backward(grad_y)
    return [y.detach(), x.grad, *(t.grad for pair in weights for t in pair if t is not None)]


def check(name: str, side: int, window: int, bands: int) -> dict:
    """One row of the result."""
    rule, _ = CASES[name]
    halo = 2 * rule.reach  # what a gradient hangs on
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = [
        (torch.randn(o, i, device=device) * (0.3 / i**0.5), torch.randn(o, device=device) * 0.1 if bias else None)
        for o, i, bias in rule.layers
    ]
    x = torch.empty(2, rule.channels, side, side, dtype=torch.float16, device=device).uniform_(-0.5, 0.5)
    # The largest gradient of every part is between 1 and 2, so that all have the same scale in float16.
    grad_y = torch.empty_like(x).uniform_(1, 1.99)
    y, grad_x, *sums = step(rule, weights, x, grad_y, side, 0, 0, 0)
    row = {"numbers": x.numel(), "windows": [], "finite": bool(torch.isfinite(sums[0]).all())}
    last, right = side - window, side - window - halo
    windows = ((1, last, right), (0, 0, halo), (1, side // 2, right // 2), (1, last, halo))
    for sample, first, column in windows[: 1 if window < 64 else None]:
        rows = torch.arange(first - halo, first + window + halo, device=device) % side
        columns = slice(column - halo, column + window + halo)
        around, grad = (t[sample : sample + 1, :, rows][..., columns].contiguous() for t in (x, grad_y))
        part = step(rule, weights, around, grad, side, sample, first - halo, column - halo)
        whole = (t[sample : sample + 1, :, first : first + window, column : column + window] for t in (y, grad_x))
        inner = slice(halo, halo + window)
        equal = [torch.equal(p[..., inner, inner], w) for p, w in zip(part[:2], whole, strict=True)]
        row["windows"].append({"at": [sample, first, column], "equal": equal})
    del y, grad_x
    totals = [torch.zeros_like(t, dtype=torch.float64) for t in sums]
    cuts = [side * n // bands for n in range(bands + 1)]
    for sample in range(2):
        for first, end in zip(cuts[:-1], cuts[1:], strict=True):
            rows = torch.arange(first - halo, end + halo, device=device) % side
            around, grad = (t[sample : sample + 1, :, rows] for t in (x, grad_y))
            grad[:, :, :halo], grad[:, :, -halo:] = 0, 0
            part = step(rule, weights, around, grad, side, sample, first - halo, 0)
            for total, of_band in zip(totals, part[2:], strict=True):
                total += of_band.double()
    row["weight_errors"] = [((s.double() - t).norm() / t.norm()).item() for s, t in zip(sums, totals, strict=True)]
    row["peak_memory_bytes"] = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return row


def good(row: dict) -> bool:
    """Whether a row is green."""
    return all(all(window["equal"]) for window in row["windows"]) and max(row["weight_errors"]) < SUM_ERROR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_large.json", help="result file")
    parser.add_argument("--seconds", type=float, help="leave out what has not begun by then")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; without a GPU in the interpreter")
    options = parser.parse_args()
    if options.smoke and not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        parser.error("this needs a GPU that torch sees, but there is none.")
    rows = Rows(options.out, options.seconds)
    for name, (_, side) in CASES.items():
        sizes = (13, 1, 1) if options.smoke else (side, 64, 8)
        rows.add(partial(check, name, *sizes), good, way=name, shape=[2, sizes[0], sizes[0]])
    rows.end_run()


if __name__ == "__main__":
    main()
