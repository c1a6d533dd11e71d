"""What gradients of frames have in common in all kernels; see `nca_fast.frames`."""

import torch
from torch import Tensor


def gradient_of_frames(turns: Tensor, field: Tensor) -> Tensor:
    """Takes the gradients of the logarithm of the scale and of the angle to those of frames (a, b).

    Args:
        turns: The former, float32 [B, 2, H, W].
        field: Frames, [1 or B, 2, H, W].

    Returns:
        Like field.
    """
    scale, angle = (turns.sum(0, keepdim=True) if len(field) == 1 else turns).unbind(1)
    a, b = field.unbind(1)
    return torch.stack([a * scale - b * angle, b * scale + a * angle], 1) / (a * a + b * b)[:, None]
