"""What the C++ kernel can do, and what memory it takes."""

import torch
from torch import Tensor

DEVICE = "cpu"
LEARNS = True


def refusal(rule, x: Tensor, precision: str, uses: tuple[str, ...] = ()) -> str | None:
    """Says why the C++ kernel cannot serve, or None; see `nca_fast.backends.Backend`. It serves all uses."""
    if x.device.type != "cpu":
        return f"the C++ kernel takes states on the CPU, but x is on {x.device.type}."
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the C++ kernel takes float32, bfloat16 and float16 states, but x is {x.dtype}: use x.float()."
    if precision != "fp32":
        return f'the C++ kernel computes in precision "fp32", but {precision!r} was asked for.'
    return None


def bytes_per_cell(rule) -> int:
    """Counts the sets of cells of the alive mask, a bit each."""
    return 0 if rule.alive_channel is None else 1
