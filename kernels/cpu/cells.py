"""Who fires and who is alive, by the C++ library where this process has loaded one.

For functions between steps, which ask in every step: PyTorch takes tens of operations for a mask.
"""

import torch
from torch import Tensor

from . import build
from .library import Draw

_SHARED = {"batch": 1, "channel": 2, "height": 4, "width": 8}


def shared_axes(shared: tuple[str, ...]) -> int:
    """Tells C++ which axes share their draws."""
    return sum(_SHARED[axis] for axis in shared)


def fire_mask(
    shape: tuple[int, int, int, int],
    seed: int,
    step: int,
    origin: tuple[int, int],
    first_sample: int,
    canvas_height: int,
    shared: tuple[str, ...],
    first_lane: int,
    limit: int,
) -> Tensor | None:
    """Draws which cells have a hash below a limit; None where no library is loaded.

    Args:
        shape: Samples, lanes, rows and columns, 1 along axes that are shared.
        first_lane: Number of the first lane.
        The others as in `nca_fast.fire_mask`.

    Returns:
        bool, of that shape.
    """
    library = build.loaded()
    if library is None:
        return None
    fires = torch.empty(shape, dtype=torch.bool, device="cpu")
    where = (*origin, first_sample, canvas_height)
    library.fire_mask(Draw(seed, *where, shared_axes(shared), step), first_lane, limit, fires)
    return fires


def alive(alpha: Tensor, threshold: float, circular: bool) -> Tensor | None:
    """Says whose 3x3 holds a value above the threshold; None where no library is loaded, or it cannot say.

    Args:
        alpha: float32 on the CPU. [B, 1, H, W]
        circular: Whether what lies beyond an edge is at the other side; else there is nothing.

    Returns:
        bool, [B, 1, H, W].
    """
    library = build.loaded()
    if library is None or alpha.dtype != torch.float32 or alpha.stride()[2:] != (alpha.shape[3], 1):
        return None
    living = torch.empty(alpha.shape, dtype=torch.bool, device="cpu")
    return living if library.alive(alpha, threshold, circular, living) else None
