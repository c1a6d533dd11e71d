"""Whether what is fast is right: without that no speed is worth a number."""

import torch

from nca_fast.nca import NCA
from nca_fast.ops import rollout

# Error against float64 that is rounding alone, whatever plain PyTorch's is.
FLOORS = {"fp32": 3e-7, "tf32": 2e-3, "fp16": 2e-3, "bf16": 2e-2}


def check_parity(
    nca: NCA, device: str = "cpu", precision: str = "fp32", backend: str | None = None
) -> dict[str, list[float]]:
    """Errors of fused and plain PyTorch against the float64 reference: values and every gradient.

    Raises:
        ArithmeticError: The fused ones are more than twice the plain ones, and more than rounding.
    """

    def run(dtype, backend, precision):
        torch.manual_seed(1)
        x = (torch.randn(2, nca.rule.channels, 48, 80) * 0.3).to(device, dtype).requires_grad_()
        weights = [
            tuple(None if t is None else t.detach().to(device, dtype, copy=True).requires_grad_() for t in pair)
            for pair in nca.weights
        ]
        y = rollout(x, weights, nca.rule, 6, seed=3, backend=backend, precision=precision)
        y.square().sum().backward()
        return [y.detach(), x.grad] + [t.grad for pair in weights for t in pair if t is not None]

    exact = run(torch.float64, "reference", "fp32")
    errors = {
        name: [((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True)]
        for name, got in (
            ("fused", run(torch.float32, backend, precision)),
            ("plain", run(torch.float32, "reference", precision)),
        )
    }
    for fused, plain in zip(errors["fused"], errors["plain"], strict=True):
        if not fused <= max(2 * plain, FLOORS[precision]):
            raise ArithmeticError(f"errors must be those of rounding before a speed is measured, but are {errors}.")
    return errors
