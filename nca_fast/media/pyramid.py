"""Deep Zoom pyramids: a picture in tiles at every power of two, and a page on which a browser shows it from the disk.

    NAME.dzi                 what the pyramid is, for other viewers (OpenSeadragon, QuPath, ...)
    NAME.html                the page; it needs no network and no server
    NAME_files/LEVEL/COLUMN_ROW.jpg

Source: Microsoft's Deep Zoom file format. Level 0 is a single pixel; the last one is the picture.
"""

import html
import json
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from nca_fast.files import atomic_folder, atomic_path
from nca_fast.media.row_blocks import PictureFormat

TILE = 512  # even, so that tiles can be halved one by one; larger than usual, so that there are fewer files
JPEG = {"format": "JPEG", "quality": 90, "subsampling": 0}
BLOCK = 4096  # bytes in which file systems hand out room


def write_pyramid(path: Path, height: int, width: int, blocks: Iterable[np.ndarray]) -> list[Path]:
    """Writes the pyramid of a picture, all levels at once, with about two rows of tiles in memory.

    Args:
        path: NAME.dzi. What an earlier call of the same name wrote is replaced.
        height, width, blocks: As in `png.write_png`.

    Returns:
        The page and NAME.dzi.

    Raises:
        OSError: As `files.atomic_path`.
    """
    folder, page = _tiles_folder(path), path.with_suffix(".html")
    with atomic_folder(folder) as temporary:
        level = None
        for number, size in enumerate(reversed(_sizes(height, width))):
            level = _Level(temporary / str(number), *size, below=level)
        for block in blocks:
            level.add(block)
    for target, text in ((path, _dzi(height, width)), (page, _page(path.stem, height, width))):
        with atomic_path(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [page, path]


def _tiles_folder(path: Path) -> Path:
    return path.with_name(f"{path.stem}_files")


def _check_replaceable(path: Path) -> None:
    """Refuses to remove a folder that holds anything but the levels of a pyramid."""
    folder = _tiles_folder(path)
    if folder.exists() and not (folder.is_dir() and all(entry.name.isdigit() for entry in folder.iterdir())):
        raise FileExistsError(
            f"{folder} must be the folder of an earlier pyramid or not exist, but it holds something else. "
            "Choose another name, or move it away."
        )


def _bytes_needed(height: int, width: int) -> int:
    sizes = _sizes(height, width)
    tiles = sum(-(-height // TILE) * -(-width // TILE) for height, width in sizes)
    # A JPEG of black and white noise has four fifths of the bytes of its pixels (tests/test_formats.py).
    return sum(3 * height * width for height, width in sizes) + tiles * (BLOCK + 1024) + (len(sizes) + 2) * BLOCK


def _sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Lists the picture's size and that of every level below it, down to a single pixel."""
    sizes = [(height, width)]
    while max(sizes[-1]) > 1:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


class _Level:
    """One level: gathers a row of tiles, writes it, and hands its half to the level below."""

    def __init__(self, folder: Path, height: int, width: int, below: "_Level | None"):
        self.folder = folder
        self.below = below
        self.rows_left = height
        self.row = 0
        self.buffer = np.empty((min(TILE, height), width, 3), np.uint8)
        self.filled = 0
        folder.mkdir()

    def add(self, rows: np.ndarray) -> None:
        while len(rows):
            count = min(len(rows), len(self.buffer) - self.filled)
            self.buffer[self.filled : self.filled + count] = rows[:count]
            rows, self.filled = rows[count:], self.filled + count
            self.rows_left -= count
            if self.filled == len(self.buffer) or self.rows_left == 0:
                self._write()

    def _write(self) -> None:
        rows, self.filled = self.buffer[: self.filled], 0
        half = np.empty((-(-len(rows) // 2), -(-rows.shape[1] // 2), 3), np.uint8)
        for column, left in enumerate(range(0, rows.shape[1], TILE)):
            tile = rows[:, left : left + TILE]
            Image.fromarray(tile).save(self.folder / f"{column}_{self.row}.jpg", **JPEG)
            if self.below is not None:
                half[:, left // 2 : (left + TILE) // 2] = halved(tile)
        self.row += 1
        if self.below is not None:
            self.below.add(half)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Computes the mean of every 2 x 2 pixels, rounded; at an odd side of those that are there.

    As other makers of pyramids do it: of the stored numbers, not of the light that they stand for.

    Args:
        pixels: uint8 [h, w, 3].

    Returns:
        uint8 [ceil(h / 2), ceil(w / 2), 3].
    """
    height, width, _ = pixels.shape
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    total = even[0::2, 0::2] + even[0::2, 1::2] + even[1::2, 0::2] + even[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def _dzi(height: int, width: int) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" Overlap="0" TileSize="{TILE}">\n'
        f'  <Size Width="{width}" Height="{height}"/>\n'
        "</Image>\n"
    )


def _page(name: str, height: int, width: int) -> str:
    name = os.fsencode(name)  # on Linux a name is any bytes
    picture = {"tiles": quote(name + b"_files"), "width": width, "height": height, "tile": TILE}
    picture["top"] = len(_sizes(height, width)) - 1  # number of the level that is the picture itself
    text = Path(__file__).with_name("viewer.html").read_text(encoding="utf-8")
    return text.replace("{{picture}}", json.dumps(picture)).replace(
        "{{title}}", html.escape(name.decode(errors="replace"))
    )


PYRAMID = PictureFormat(
    largest_side=2**31 - 1,
    write=write_pyramid,
    bytes_needed=_bytes_needed,
    # A row of tiles at each level, and its half, and what it takes to halve and compress a tile.
    bytes_held=lambda height, width: 3 * TILE * width * 3 + 2**23,
    check=_check_replaceable,
)
