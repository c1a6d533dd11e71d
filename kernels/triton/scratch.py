"""Memory between the Triton kernels of one step."""

import torch
from torch import Tensor


class Scratch:
    """Tensors that are allocated once per rollout, when they are first asked for, and the same for all of its steps."""

    def __init__(self):
        self.kept = {}

    def __call__(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype) -> Tensor:
        """The tensor of a name, beside `like`; zeros at first: some columns are read and never written."""
        if name not in self.kept:
            self.kept[name] = torch.zeros(*shape, dtype=dtype, device=like.device)
        return self.kept[name]
