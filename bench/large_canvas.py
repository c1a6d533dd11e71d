"""Is a canvas of more than 2**31 numbers right where 32-bit offsets would have overflowed?

    python -m bench.large_canvas        needs 18 GiB of memory; writes bench/results/large_canvas.json

One step on 2 channels x 32,800 x 32,800 cells; windows of the result, the last rows and columns among them, must equal
the same step on a copy of the window's surroundings alone, bit for bit.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.harness import RESULTS, header, write_result
from nca_fast import Rule, rollout

SIDE, WINDOW = 32800, 64
RULE = Rule(channels=2, hidden=(4,), filters=("identity", "sobel_x", "sobel_y"))


def windows_equal(
    x: Tensor, y: Tensor, windows: Sequence[tuple[int, int]], step: Callable[[Tensor, tuple[int, int]], Tensor]
) -> list[bool]:
    """Whether windows of y, the square canvas x after a step, are the bits that a copy of their surroundings gives.

    Args:
        x, y: [1, C, H, H].
        windows: First row and column of each.
        step: (part of x, row and column of its first cell in the canvas) -> the part after the step.
    """
    side, equal = x.shape[-1], []
    for row, column in windows:
        rows = torch.arange(row - 1, row + WINDOW + 1, device=x.device) % side
        columns = torch.arange(column - 1, column + WINDOW + 1, device=x.device) % side
        around = x[:, :, rows][:, :, :, columns].contiguous()
        part = step(around, ((row - 1) % 2**32, (column - 1) % 2**32))[:, :, 1:-1, 1:-1]
        equal.append(torch.equal(part, y[:, :, row : row + WINDOW, column : column + WINDOW]))
    return equal


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    weights = [(torch.randn(o, i) * 0.3, torch.randn(o) if bias else None) for o, i, bias in RULE.layers]
    x = torch.empty(1, 2, SIDE, SIDE)
    x.uniform_(-1, 1)

    def step(x: Tensor, origin: tuple[int, int]) -> Tensor:
        return rollout(x, weights, RULE, 1, seed=1, origin=origin, backend="cpu")

    begin = time.perf_counter()
    y = step(x, (0, 0))
    seconds = time.perf_counter() - begin
    last = SIDE - WINDOW
    windows = [(0, 0), (SIDE // 2, 123), (last, 0), (last, last)]
    equal = windows_equal(x, y, windows, step)
    print(f"{x.numel()} numbers, {x.numel() / 2**31:.3f} x 2**31; windows equal: {equal}; {seconds:.1f} s")
    if not all(equal) or x.numel() <= 2**31:
        sys.exit("the large canvas is wrong")
    result = {"header": header(), "numbers": x.numel(), "windows": windows, "equal": equal, "seconds": seconds}
    write_result(RESULTS / "large_canvas.json", result)


if __name__ == "__main__":
    main()
