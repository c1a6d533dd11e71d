"""How exact is each precision on a grown texture, and what happens to a state that blows up?

    python -m bench.precision FOLDER     a texture automaton as `nca-fast texture` keeps it; half a minute on a CPU

The reference rounds what the matrix products multiply as a GPU does, and accumulates in float32: its error against
float64 is that of the precision itself. Errors are norms over norms of the exact values.
"""

import argparse
from pathlib import Path

import torch

from bench.harness import RESULTS, header, write_result
from nca_fast import NCA, rollout
from nca_fast.backends import PRECISIONS

GROWN = 300  # steps before what is measured
CASES = [(p, torch.float32) for p in PRECISIONS] + [("fp16", torch.float16), ("bf16", torch.bfloat16)]


def errors(nca: NCA, x: torch.Tensor, steps: int, precision: str, dtype: torch.dtype) -> dict:
    """Of the state after some steps, of its gradient in x and of the worst gradient in a weight or bias."""
    torch.manual_seed(0)
    grad_y = torch.randn(x.shape)

    def run(dtype, precision):
        of = torch.float64 if dtype == torch.float64 else torch.float32
        start = x.to(dtype, copy=True).requires_grad_()
        weights = [
            tuple(None if t is None else t.detach().to(of, copy=True).requires_grad_() for t in pair)
            for pair in nca.weights
        ]
        options = {"seed": 1, "first_step": GROWN, "backend": "reference", "precision": precision}
        y = rollout(start, weights, nca.rule, steps, **options)
        y.backward(grad_y.to(dtype))
        return [y.detach(), start.grad] + [t.grad for pair in weights for t in pair if t is not None]

    exact, got = run(torch.float64, "fp32"), run(dtype, precision)
    value, grad_x, *grads = (((g - e).norm() / e.norm()).item() for g, e in zip(got, exact, strict=True))
    return {"value": value, "grad_x": grad_x, "worst_grad_of_weights": max(grads)}


def largest_finite(nca: NCA, x: torch.Tensor, precision: str) -> float:
    """The largest state, in powers of two, from which all cells are still finite after a step."""
    weights, largest = [tuple(None if t is None else t.detach() for t in pair) for pair in nca.weights], 0.0
    for power in range(0, 128):
        scaled = x / x.abs().max() * 2.0**power
        if not rollout(scaled, weights, nca.rule, 1, seed=1, backend="reference", precision=precision).isfinite().all():
            break
        largest = 2.0**power
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a trained texture automaton")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json", help="result file")
    options = parser.parse_args()
    nca = NCA.from_pretrained(options.folder)
    with torch.no_grad():
        x = nca(nca.initial_state(2, 48, 48), GROWN, seed=1)
    result = {"header": header(), "largest_state": x.abs().max().item(), "rows": []}
    for precision, dtype in CASES:
        row = {"precision": precision, "state": str(dtype).split(".")[1]}
        row |= {f"{steps}_steps": errors(nca, x, steps, precision, dtype) for steps in (1, 32, 96)}
        if dtype == torch.float32:
            row["largest_finite"] = largest_finite(nca, x, precision)
        result["rows"].append(row)
        print(row, flush=True)
        write_result(options.out, result)


if __name__ == "__main__":
    main()
