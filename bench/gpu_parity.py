"""Are the Triton kernels right on a GPU at real sizes, in every precision, and twice the same?

    python -m bench.gpu_parity [--out FILE]

Values and every gradient against the float64 reference with the same masks, on the same GPU; at most twice the error of
plain PyTorch at the same precision. tests/test_triton.py checks all kinds of rules at small sizes.
"""

import argparse
import sys
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
}
SHAPES = [(4, 128, 128), (2, 257, 509), (1, 1000, 1023)]
PRECISIONS = [("fp32", torch.float32), ("tf32", torch.float32), ("fp16", torch.float32), ("fp16", torch.float16)]
PRECISIONS += [("bf16", torch.float32), ("bf16", torch.bfloat16)]
STEPS = 3


def gradients(rule, weights, x, grad_y, dtype, **options) -> list[torch.Tensor]:
    """[y, grad_x, grad_W1, ...] of one rollout; weights are float32 at least."""
    x = x.to(dtype, copy=True).requires_grad_()
    of = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [tuple(None if t is None else t.to(of, copy=True).requires_grad_() for t in pair) for pair in weights]
    y = rollout(x, weights, rule, STEPS, seed=5, origin=(3, 2**31 - 9), **options)
    y.backward(grad_y.to(dtype))
    return [y.detach(), x.grad] + [t.grad for pair in weights for t in pair if t is not None]


def check(name: str, shape: tuple[int, int, int], precision: str, dtype: torch.dtype) -> dict:
    """One row of the result."""
    rule = RULES[name]
    B, H, W = shape
    torch.manual_seed(B + H + W)
    weights = [
        (torch.randn(o, i, device="cuda") * (0.3 / i**0.5), torch.randn(o, device="cuda") * 0.1 if bias else None)
        for o, i, bias in rule.layers
    ]
    x = (torch.randn(B, rule.channels, H, W, device="cuda") * 0.5).to(dtype)
    grad_y = torch.randn_like(x)
    exact = gradients(rule, weights, x, grad_y, torch.float64, backend="reference")
    plain = gradients(rule, weights, x, grad_y, dtype, backend="reference", precision=precision)
    fused, again = (gradients(rule, weights, x, grad_y, dtype, backend="triton", precision=precision) for _ in range(2))

    def errors(got):
        return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True)]

    errors_plain, errors_fused = errors(plain), errors(fused)
    good = all(f <= max(2 * p, FLOORS["fp32"]) for f, p in zip(errors_fused, errors_plain, strict=True))
    same = all(torch.equal(a, b) for a, b in zip(fused, again, strict=True))
    facts = {"rule": name, "shape": shape, "precision": precision, "state": str(dtype).split(".")[1]}
    return facts | {"plain": errors_plain, "fused": errors_fused, "parity": good, "same_bits_twice": same}


def check_above_2_31() -> dict:
    """A canvas of more than 2**31 numbers: windows equal those computed from a copy of their surroundings."""
    side, rule = 16384, Rule()
    torch.manual_seed(0)
    weights = [
        (torch.randn(o, i, device="cuda") * 0.05, torch.randn(o, device="cuda") * 0.1 if bias else None)
        for o, i, bias in rule.layers
    ]

    def step(x, origin):
        return rollout(x, weights, rule, 1, seed=1, origin=origin, precision="fp16")

    x = torch.rand(1, 12, side, side, device="cuda")
    windows = [(0, 0), (side // 2, 123), (side - WINDOW, side - WINDOW)]
    equal = windows_equal(x, step(x, (0, 0)), windows, step)
    return {"numbers": x.numel(), "windows_equal": equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_parity.json", help="result file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs a GPU that torch sees, but there is none.")
    result = {"header": header() | {"gpu": torch.cuda.get_device_name()}, "rows": []}
    red = 0
    for name in RULES:
        for precision, dtype in PRECISIONS:
            for shape in SHAPES:
                try:
                    row = check(name, shape, precision, dtype)
                except ValueError as refused:  # what a kernel does not serve
                    row = {"rule": name, "shape": shape, "precision": precision, "refused": str(refused)}
                result["rows"].append(row)
                worst = max(row.get("fused", [0]))
                good = "refused" in row or (row["parity"] and row["same_bits_twice"])
                red += not good
                print("green" if good else "RED  ", name, shape, precision, dtype, f"{worst:.1e}", flush=True)
                write_result(options.out, result)
    result["above_2_31"] = check_above_2_31()
    print(result["above_2_31"])
    write_result(options.out, result)
    if red or not all(result["above_2_31"]["windows_equal"]):
        sys.exit(f"{red} of {len(result['rows'])} are red")


if __name__ == "__main__":
    main()
