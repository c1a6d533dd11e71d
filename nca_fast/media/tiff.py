"""BigTIFF in tiles, of which a viewer reads those that it shows: for programs that open pictures of many gigabytes."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile

from nca_fast.media.row_blocks import regrouped

LARGEST_SIDE = 2**31 - 1  # BigTIFF has 32 bits for a side; many readers take them for signed
TILE = 256
AT_ONCE = 2**22  # bytes that are compressed side by side
LEVEL = 1  # of zlib; on textures level 6 and the horizontal predictor gave larger files at a third of the speed


def write_tiff(path: Path, height: int, width: int, blocks: Iterable[np.ndarray]) -> None:
    """Writes a picture of 8-bit RGB as deflated tiles, with one row of tiles in memory; arguments as `write_png`."""
    tifffile.imwrite(
        path,
        _tiles(blocks),
        shape=(height, width, 3),
        dtype=np.uint8,
        bigtiff=True,
        photometric="rgb",
        tile=(TILE, TILE),
        compression="adobe_deflate",
        compressionargs={"level": LEVEL},
        metadata=None,
        buffersize=AT_ONCE,
    )


def tiff_bytes(height: int, width: int) -> int:
    """Upper bound of the size of such a file: whole tiles of noise, and where each lies."""
    tiles = -(-height // TILE) * -(-width // TILE)
    return tiles * (TILE * TILE * 3 + 1024) + 4096


def _tiles(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for rows in regrouped(blocks, TILE):
        for left in range(0, rows.shape[1], TILE):
            yield rows[:, left : left + TILE]
