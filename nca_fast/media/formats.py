"""Pictures of any size as files, from row blocks that come from top to bottom; only Pillow's formats hold them all."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nca_fast.media.images import PILLOW_FORMATS
from nca_fast.media.png import PNG
from nca_fast.media.pyramid import PYRAMID
from nca_fast.media.row_blocks import PictureFormat, checked, over_white, with_alpha
from nca_fast.media.tiff import TIFF

# The rows of the table, by ending; Pillow's PNG gives way to one that is written row by row.
FORMATS: dict[str, PictureFormat] = PILLOW_FORMATS | {".png": PNG, ".tif": TIFF, ".tiff": TIFF, ".dzi": PYRAMID}


def check_picture(path: Path, height: int, width: int) -> None:
    """Refuses a picture that `write_picture` cannot write, so that long work need not begin.

    Raises:
        ValueError: The name's ending is none of `FORMATS`, or the format does not have this size.
        FileExistsError: Something lies there that must not be replaced.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"the picture's name must end in one of {', '.join(FORMATS)}, but got {str(path)!r}.")
    if min(height, width) < 1:
        raise ValueError(f"height and width must be at least 1 pixel, but got {height} and {width}.")
    largest = FORMATS[suffix].largest_side
    if max(height, width) > largest:
        others = [other for other in FORMATS if FORMATS[other].largest_side >= max(height, width)]
        remedy = f"Write {' or '.join(others)}." if others else "Render a smaller picture."
        raise ValueError(
            f"sides of a {suffix} must be at most {largest} pixels, but the picture is {height} x {width}. {remedy}"
        )
    FORMATS[suffix].check(path)


def write_picture(
    path: Path, height: int, width: int, blocks: Iterable[np.ndarray], alpha: np.ndarray | None = None
) -> list[Path]:
    """Writes a picture; the ending of the name decides how. It appears when it is complete, and not otherwise.

    Args:
        path: .png, .tif (in tiles), .dzi (Deep Zoom pyramid, with a page for browsers), .jpg or .webp.
        height: Rows of the picture, in pixels.
        width: Columns of the picture, in pixels.
        blocks: Its rows from top to bottom, any number at a time. Each uint8 [rows, width, 3]
        alpha: How opaque it is, uint8 [height, width]; a format without transparency shows it on white. None: all.

    Returns:
        The files, in the order in which a user looks at them.

    Raises:
        ValueError: As `check_picture`; or the blocks do not make up the picture.
        OSError: A file cannot be written; those that were there before are unchanged.
    """
    path = Path(path)
    check_picture(path, height, width)
    kind, blocks = FORMATS[path.suffix.lower()], checked(blocks, height, width)
    if alpha is None:
        return kind.write(path, height, width, blocks)
    blocks = with_alpha(blocks, alpha)
    if kind.write_rgba is None:
        return kind.write(path, height, width, over_white(blocks))
    return kind.write_rgba(path, height, width, blocks)
