"""How pleasing people would find a picture, by a linear head on its CLIP vector."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AestheticHead(nn.Module):
    """A rating from 0 to 10, and its distance to a wanted one.

        rating = w . v / |v| + b,    D = (rating - target)^2

    Args:
        path: A .pth (or .pt) or .safetensors file with `weight` [1, width] and `bias` [1], also under a common prefix
            ("linear.weight"), as published for the vectors of OpenAI's models: Crowson's AVA probe for ViT-B/16 and
            LAION's predictor for ViT-B/32 and B/16 (512 numbers) and ViT-L/14 (768). Nothing in it is executed.
        width: Length of the vectors of the CLIP model that it goes with.
        target: The wanted rating, 0 to 10.

    Raises:
        ValueError: A file that is missing, unreadable, or of another shape; a target outside.

    Source: Crowson, "simulacra-aesthetic-models" and its predecessors; Petersen's CLIP notebook (2022), target 9.9.
    """

    def __init__(self, path: str | os.PathLike, width: int, target: float = 9.9):
        super().__init__()
        if not 0 <= target <= 10:
            raise ValueError(f"the aesthetic target must be from 0 to 10, but got {target}.")
        self.target = target
        weight, bias = _read(Path(path))
        if weight.shape != (1, width) or bias.shape != (1,):
            raise ValueError(
                f"the aesthetic head must map vectors of {width} numbers, as this CLIP model makes them, to one "
                f"rating; but {os.fspath(path)!r} has weight {list(weight.shape)} and bias {list(bias.shape)}. Take "
                "the head that was made for this model."
            )
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def rating(self, vectors: Tensor) -> Tensor:
        """[N, D] -> [N]"""
        return F.linear(F.normalize(vectors, dim=1), self.weight, self.bias)[:, 0]

    def forward(self, vectors: Tensor) -> Tensor:
        """[N, D] -> D [N]"""
        return (self.rating(vectors) - self.target).square()


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """The two tensors of a linear layer."""
    if not path.is_file():
        raise ValueError(f"the aesthetic head must be an existing file, but there is none at {str(path)!r}.")
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(f"the aesthetic head must end in .pth, .pt or .safetensors, but got {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers, zip readers and safetensors each have their own kinds
        raise ValueError(
            f"the aesthetic head {str(path)!r} cannot be read, it is damaged, cut short or no state dict "
            f"({type(error).__name__}); fetch it again."
        ) from error
    found = {}
    for name, tensor in state.items() if isinstance(state, dict) else ():
        if isinstance(tensor, Tensor):
            found.setdefault(name.rpartition(".")[2], []).append(tensor)
    if any(len(found.get(name, ())) != 1 for name in ("weight", "bias")):
        raise ValueError(
            f"the aesthetic head {str(path)!r} must hold one weight and one bias, but holds "
            f"{sorted(state) if isinstance(state, dict) else type(state).__name__}. Other kinds of heads do not fit."
        )
    return found["weight"][0], found["bias"][0]
