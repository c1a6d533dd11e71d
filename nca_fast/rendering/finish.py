"""What becomes of a redrawn picture before it is written: how much of the photograph shows, and whose colours."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, for sRGB as it is stored
_GREY = 1e-6  # a difference from grey that no picture of 16 bits has


@dataclass(frozen=True, eq=False)
class Finish:
    """Lays a redrawn picture over the photograph that it was made of.

        out = photo + strength * (redrawn - photo)

    so that every pixel goes straight from the photograph's to the redrawn one's. Stopping the automaton early would be
    no such way: after a third of its steps it has not drawn a third of a stroke.

    Args:
        photo: The photograph, [3, H, W] in [0, 1].
        strength: 0 is the photograph, 1 what was redrawn, to the bit.
        preserve_color: Whether the redrawn picture first gets the colours of the photograph, see `recolored`.
    """

    photo: Tensor
    strength: float = 1.0
    preserve_color: bool = False

    def __call__(self, redrawn: Tensor, row: int = 0) -> Tensor:
        """Finishes some rows, from `row` on. [3, h, W] in [0, 1] -> same"""
        photo = self.photo[:, row : row + redrawn.shape[1]].to(redrawn)
        if self.preserve_color:
            redrawn = recolored(redrawn, photo)
        return torch.lerp(photo, redrawn, self.strength)

    def blocks(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Finishes a picture that comes from top to bottom, in uint8 blocks [rows, W, 3]."""
        row = 0
        for block in blocks:
            finished = self(block.permute(2, 0, 1) / 255, row)
            yield (finished * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
            row += len(block)


def recolored(drawing: Tensor, photo: Tensor) -> Tensor:
    """Gives a drawing the colours of a photograph: its own luminance, the photograph's distance from grey.

    Where that is no colour, as for a white stroke on a red flower, it is brought as near to grey as it must; hue and
    luminance stay.

    Args:
        drawing, photo: [3, h, w] in [0, 1].

    Returns:
        [3, h, w] in [0, 1].

    Source: the luminance-only transfer of Gatys et al., Preserving color in neural artistic style transfer, 2016.
    Departure: the reduction of what leaves [0, 1].
    """
    weights = torch.tensor(_LUMINANCE).to(drawing).view(3, 1, 1)
    luminance = (drawing * weights).sum(0, keepdim=True)
    chroma = photo - (photo * weights).sum(0, keepdim=True)
    room = torch.where(chroma > 0, 1 - luminance, luminance) / chroma.abs().clamp(min=_GREY)
    return (luminance + room.amin(0, keepdim=True).clamp(0, 1) * chroma).clamp(0, 1)
