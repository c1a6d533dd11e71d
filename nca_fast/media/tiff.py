"""BigTIFF in tiles, of which a viewer reads those that it shows: for programs that open pictures of many gigabytes."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile

from nca_fast.media.row_blocks import PictureFormat, one_file, regrouped

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


def _bytes_needed(height: int, width: int) -> int:
    """Counts whole tiles of noise, and where each lies."""
    tiles = -(-height // TILE) * -(-width // TILE)
    return tiles * (TILE * TILE * 3 + 1024) + 4096


def _tiles(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for rows in regrouped(blocks, TILE):
        for left in range(0, rows.shape[1], TILE):
            yield rows[:, left : left + TILE]


TIFF = PictureFormat(
    largest_side=2**31 - 1,  # BigTIFF has 32 bits for a side; many readers take them for signed
    write=one_file(write_tiff),
    bytes_needed=_bytes_needed,
    bytes_held=lambda height, width: 2 * 3 * TILE * width + 4 * AT_ONCE,
)
