"""TIFF in tiles, of which a viewer reads those that it shows: for programs that open pictures of many gigabytes."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from nca_fast.media.row_blocks import PictureFormat, one_file, regrouped

TILE = 256
AT_ONCE = 2**22  # bytes that are compressed side by side
CLASSIC = 2**32  # bytes that 32-bit offsets reach
LEVEL = 1  # of zlib; on textures level 6 and the horizontal predictor gave larger files at a third of the speed


def write_tiff(path: Path, height: int, width: int, blocks: Iterable[np.ndarray], channels: int = 3) -> None:
    """Writes a picture as deflated tiles, with one row of tiles in memory; arguments as `write_png`.

    It is a classic TIFF, which every program opens, unless it could reach the 4 GB where those end: then BigTIFF.
    """
    tifffile.imwrite(
        path,
        _tiles(blocks),
        shape=(height, width, channels),
        dtype=np.uint8,
        bigtiff=_bytes_needed(height, width, channels) >= CLASSIC,
        photometric="rgb",
        extrasamples=["unassalpha"] if channels == 4 else None,
        tile=(TILE, TILE),
        compression="adobe_deflate",
        compressionargs={"level": LEVEL},
        metadata=None,
        buffersize=AT_ONCE,
    )


def _bytes_needed(height: int, width: int, channels: int = 3) -> int:
    """Counts whole tiles of noise, and where each lies."""
    tiles = -(-height // TILE) * -(-width // TILE)
    return tiles * (TILE * TILE * channels + 1024) + 4096


def _tiles(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for rows in regrouped(blocks, TILE):
        for left in range(0, rows.shape[1], TILE):
            yield rows[:, left : left + TILE]


TIFF = PictureFormat(
    largest_side=2**31 - 1,  # BigTIFF has 32 bits for a side; many readers take them for signed
    write=one_file(write_tiff),
    write_rgba=one_file(partial(write_tiff, channels=4)),
    bytes_needed=_bytes_needed,
    bytes_held=lambda height, width: 2 * 3 * TILE * width + 4 * AT_ONCE,
)
