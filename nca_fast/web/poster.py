"""The picture that is on the page before anything runs: what its first automaton draws."""

import base64
import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from nca_fast.hexagons import draws_hexagons
from nca_fast.media.images import to_uint8
from nca_fast.nca import NCA
from nca_fast.rendering.hexagons import Hexagons

TILE = 128  # cells along a side
GROWN = 64  # of what grows out of one cell, where its file names no size
QUALITY = 80  # of the JPEG: 5 to 10 KB
SKY = ((0.15, 0.31, 0.54), (0.85, 0.54, 0.42), (0.97, 0.85, 0.63), (0.31, 0.42, 0.45))  # which a style redraws


@dataclass(frozen=True)
class Poster:
    """A picture, and how it lies on the stage.

    Args:
        jpeg: The file.
        fit: "tile" for one that goes on at its edges, "contain" for one that is seen whole, "cover" for one that fills
            the stage.
    """

    jpeg: bytes
    fit: str

    @property
    def address(self) -> str:
        """The file as a data: address."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


def poster(nca: NCA, steps: int, side: int | None = None) -> Poster:
    """Lets an automaton draw its picture.

    Args:
        nca: Any that the page runs, on the CPU.
        steps: After which its picture is there.
        side: In cells. None: 64 for what grows out of one cell, 128 for others.
    """
    side = side or (GROWN if nca.start == "cell" else TILE)
    start = {"image": _sky(side, 4 * side // 3)} if nca.start == "image" else {}
    height, width = start["image"].shape[1:] if start else (side, side)
    with torch.no_grad():
        drawn = nca.to_rgb(nca(nca.initial_state(1, height, width, **start), steps, seed=0))[0]
    drawn = drawn.nan_to_num(0.5)  # of one that blew up: the page runs it none the less
    hexagons = draws_hexagons(nca)
    if hexagons:
        drawn = Hexagons(height, width, 2).whole(drawn)
    goes_on = nca.rule.padding == "circular" and not hexagons
    fit = {"image": "cover", "cell": "contain"}.get(nca.start, "tile" if goes_on else "cover")
    file = io.BytesIO()
    Image.fromarray(to_uint8(drawn)).save(file, "JPEG", quality=QUALITY, optimize=True)
    return Poster(file.getvalue(), fit)


def _sky(height: int, width: int) -> Tensor:
    """Draws the colours of an evening, one below the other. [3, height, width]"""
    colours = torch.tensor(SKY).T[None, :, :, None]
    return torch.nn.functional.interpolate(colours, (height, width), mode="bilinear", align_corners=True)[0]
