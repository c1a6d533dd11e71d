"""Pictures of any size as files. A picture comes as row blocks from top to bottom and is never held as a whole, but for
JPEG and WebP, whose libraries want it so.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nca_fast.files import atomic_path
from nca_fast.media import png, pyramid, tiff
from nca_fast.media.images import save_pixels
from nca_fast.media.row_blocks import checked

# JPEG has 16 bits for a side, and libjpeg-turbo stops at 65500; WebP has 14 bits.
LARGEST_SIDES = {
    ".png": png.LARGEST_SIDE,
    ".tif": tiff.LARGEST_SIDE,
    ".tiff": tiff.LARGEST_SIDE,
    ".dzi": pyramid.LARGEST_SIDE,
    ".jpg": 65500,
    ".jpeg": 65500,
    ".webp": 16383,
}


def check_picture(path: Path, height: int, width: int) -> None:
    """Refuses a picture that `write_picture` cannot write, so that long work need not begin.

    Raises:
        ValueError: The name's ending is none of `LARGEST_SIDES`, or the format does not have this size.
        FileExistsError: See `pyramid.check_replaceable`.
    """
    suffix = path.suffix.lower()
    if suffix not in LARGEST_SIDES:
        raise ValueError(f"the picture's name must end in one of {', '.join(LARGEST_SIDES)}, but got {str(path)!r}.")
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1 pixel, but got {height} and {width}.")
    largest = LARGEST_SIDES[suffix]
    if max(height, width) > largest:
        others = [other for other in (".png", ".tif", ".dzi") if LARGEST_SIDES[other] >= max(height, width)]
        remedy = f"Write {' or '.join(others)}." if others else "Render a smaller picture."
        raise ValueError(
            f"sides of a {suffix} must be at most {largest} pixels, but the picture is {height} x {width}. {remedy}"
        )
    if suffix == ".dzi":
        pyramid.check_replaceable(path)


def write_picture(path: Path, height: int, width: int, blocks: Iterable[np.ndarray]) -> list[Path]:
    """Writes a picture; the ending of the name decides how. It appears when it is complete, and not otherwise.

    Args:
        path: .png, .tif (BigTIFF in tiles), .dzi (Deep Zoom pyramid, with a page for browsers), .jpg or .webp.
        height: Rows of the picture, in pixels.
        width: Columns of the picture, in pixels.
        blocks: Its rows from top to bottom, any number at a time. Each uint8 [rows, width, 3]

    Returns:
        The files, in the order in which a user looks at them.

    Raises:
        ValueError: As `check_picture`; or the blocks do not make up the picture.
        OSError: A file cannot be written; those that were there before are unchanged.
    """
    path = Path(path)
    check_picture(path, height, width)
    suffix, blocks = path.suffix.lower(), checked(blocks, height, width)
    if suffix == ".dzi":
        return pyramid.write_pyramid(path, height, width, blocks)
    if suffix in (".png", ".tif", ".tiff"):
        write = png.write_png if suffix == ".png" else tiff.write_tiff
        with atomic_path(path) as temporary:
            write(temporary, height, width, blocks)
        return [path]
    pixels, row = np.empty((height, width, 3), np.uint8), 0
    for block in blocks:
        pixels[row : row + len(block)] = block
        row += len(block)
    save_pixels(pixels, path)
    return [path]


def bytes_needed(path: Path, height: int, width: int) -> int:
    """Upper bound of the room on the disk that `write_picture` takes, whatever the picture shows."""
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        return png.png_bytes(height, width)
    if suffix in (".tif", ".tiff"):
        return tiff.tiff_bytes(height, width)
    if suffix == ".dzi":
        return pyramid.pyramid_bytes(height, width)
    return 3 * height * width + height * width // 10 + 65536  # noise stays as large as it is (tests/test_writers.py)


def bytes_held(path: Path, height: int, width: int) -> int:
    """Upper bound of the memory that `write_picture` takes beside the blocks."""
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        return 5 * max(png.PIECE, 3 * width) + 2**20
    if suffix in (".tif", ".tiff"):
        return 2 * 3 * tiff.TILE * width + 4 * tiff.AT_ONCE
    if suffix == ".dzi":
        return pyramid.pyramid_memory(width)
    return (16 if suffix == ".webp" else 8) * height * width  # Pillow has a copy of 4 bytes a pixel, WebP three more
