"""The pictures that an automaton learns to change, and the start states that are made of them.

A canvas sees a square of a picture, of random place and size, shrunk to the canvas; so one photo gives many canvases,
and what is learned holds at every scale of it.
"""

import contextlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast.checkpoint import Contents
from nca_fast.devices import moved
from nca_fast.media.decoding import picture_files
from nca_fast.media.images import load_image
from nca_fast.nca import NCA

SMALLEST_PICTURE = 16  # pixels on the shorter side; less shows nothing that could be recognised
_PREFIX = "content."


class ContentPictures:
    """Pictures of any sizes, kept as bytes, from which square canvases are cut.

    Args:
        pictures: One or more, uint8 [3, h, w].
        size: Rows and columns of the canvas, in cells.

    Raises:
        ValueError: No pictures, or such of another kind.
    """

    def __init__(self, pictures: Sequence[Tensor], size: int):
        if not pictures or any(p.ndim != 3 or p.shape[0] != 3 or p.dtype != torch.uint8 for p in pictures):
            found = [f"{picture.dtype} {list(picture.shape)}" for picture in pictures]
            raise ValueError(f"content must be one or more uint8 pictures [3, h, w], but got {found}.")
        self.pictures, self.size = list(pictures), size

    @classmethod
    def read(cls, sources: Sequence[str | Path | Tensor], size: int, zoom: float) -> "ContentPictures":
        """Reads files and folders.

        Args:
            sources: Files, "skimage:NAME", folders (the picture files in them, not those of their folders), or pictures
                [3, h, w] in [0, 1].
            size: Rows and columns of the canvas, in cells.
            zoom: Pictures are kept with a shorter side of at most zoom * size pixels, and the squares cut from them are
                of size to zoom * size; 1 cuts the largest square only. At least 1.

        Raises:
            ValueError: A picture that cannot be read, or is smaller than 16 pixels; a folder without any. In a folder
                such pictures are passed over with a warning, as long as one remains.
        """
        pictures = []
        for source in sources:
            if isinstance(source, Tensor) or not os.path.isdir(source):
                pictures.append(_kept(source, size, zoom))
                continue
            readable = []
            for file in picture_files(source):
                try:
                    readable.append(_kept(file, size, zoom))
                except ValueError as error:
                    warnings.warn(f"a content picture is passed over: {error}", stacklevel=2)
            if not readable:
                raise ValueError(f"content folder {os.fspath(source)!r} must hold a readable picture, but has none.")
            pictures += readable
        return cls(pictures, size)

    def __len__(self) -> int:
        return len(self.pictures)

    def squares(self, count: int, generator: torch.Generator, size: int | None = None) -> Tensor:
        """Cuts canvases at random.

        Args:
            count: How many; their pictures are drawn evenly, with replacement.
            generator: Decides alone, on the CPU.
            size: Rows and columns of these canvases; None: those of the training. What is smaller is enlarged.

        Returns:
            [count, 3, size, size] in [0, 1].
        """
        size = self.size if size is None else size

        def draw(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        squares = []
        for _ in range(count):  # sizes and places are numbers on the host, pixels stay where they are
            picture = self.pictures[draw(0, len(self) - 1)]
            height, width = picture.shape[1:]
            side = draw(min(size, height, width), min(height, width))
            top, left = draw(0, height - side), draw(0, width - side)
            squares.append(_resized(picture[:, top : top + side, left : left + side] / 255, size, size))
        return torch.stack(squares)

    def start(
        self, nca: NCA, count: int, seed: int, noise: torch.Generator | None = None, size: int | None = None
    ) -> Tensor:
        """Makes start states [count, C, size, size] of random squares; noise: as `generator` of `NCA.initial_state`."""
        squares = self.squares(count, torch.Generator().manual_seed(seed), size)
        return nca.initial_state(count, *squares.shape[2:], seed=seed, image=squares, generator=noise)

    def to(self, device: torch.device) -> "ContentPictures":
        """The same pictures on a device, where squares are cut from them."""
        return ContentPictures([moved(picture, device) for picture in self.pictures], self.size)

    def tensors(self) -> dict[str, Tensor]:
        """The pictures under names of their own, for a file."""
        return {f"{_PREFIX}{index:06}": picture for index, picture in enumerate(self.pictures)}

    @classmethod
    def restored(cls, tensors: Contents, size: int) -> "ContentPictures":
        """The pictures among the tensors of a file that `tensors()` named. Raises ValueError for none, or others."""
        names = sorted(name for name in tensors if name.startswith(_PREFIX)) or [f"{_PREFIX}{0:06}"]
        return cls([tensors.tensor(name, (3, None, None), torch.uint8) for name in names], size)


def first_picture(sources: Sequence[str | Path | Tensor], size: int) -> Tensor:
    """The first picture that `ContentPictures.read` finds, as large as it is, or with a longer side of `size` pixels.

    Args:
        sources: Such as `ContentPictures.read` accepted.
        size: In pixels.

    Returns:
        uint8 [3, h, w].
    """
    source = sources[0]
    folder = not isinstance(source, Tensor) and os.path.isdir(source)
    for candidate in picture_files(source) if folder else [source]:
        with contextlib.suppress(*[ValueError] if folder else []):  # `read` has named the broken ones
            return _as_bytes(shrunk(_read(candidate), size))
    raise ValueError(f"content folder {os.fspath(source)!r} must hold a readable picture, but has none.")


def shrunk(picture: Tensor, size: int) -> Tensor:
    """A picture [3, h, w] in [0, 1] whose longer side has at most `size` pixels; a smaller one is left alone."""
    longer = max(picture.shape[1:])
    if longer <= size:
        return picture
    return _resized(picture, *(max(1, round(side * size / longer)) for side in picture.shape[1:]))


def _read(source: str | Path | Tensor) -> Tensor:
    """A picture that is large enough to be recognised. [3, h, w] in [0, 1]"""
    picture = source if isinstance(source, Tensor) else load_image(source)
    if picture.ndim != 3 or picture.shape[0] != 3 or min(picture.shape[1:]) < SMALLEST_PICTURE:
        name = "a tensor" if isinstance(source, Tensor) else repr(os.fspath(source))
        raise ValueError(
            f"content must be [3, h, w], at least {SMALLEST_PICTURE} pixels high and wide, but {name} is "
            f"{list(picture.shape)}."
        )
    return picture


def _kept(source: str | Path | Tensor, size: int, zoom: float) -> Tensor:
    """A picture as bytes, no larger than its squares need. uint8 [3, h, w]"""
    picture = _read(source)
    height, width = picture.shape[1:]
    return _as_bytes(shrunk(picture, round(zoom * size * max(height, width) / min(height, width))))


def _as_bytes(picture: Tensor) -> Tensor:
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture [3, h, w] shrunk or enlarged, in [0, 1]; itself, where it has that size."""
    if picture.shape[1:] == (height, width):
        return picture
    return F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
