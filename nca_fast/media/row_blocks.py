"""A picture that is too large to hold: row blocks, arrays uint8 [rows, width, 3], that follow each other downwards."""

from collections.abc import Iterable, Iterator

import numpy as np


def checked(blocks: Iterable[np.ndarray], height: int, width: int) -> Iterator[np.ndarray]:
    """Passes on the blocks of a picture of `height` x `width` pixels; empty ones are left out.

    Raises:
        ValueError: A block is no uint8 [rows, width, 3], or the blocks have fewer or more rows than the picture.
    """
    rows = 0
    for block in blocks:
        if block.ndim != 3 or block.shape[1:] != (width, 3) or block.dtype != np.uint8:
            raise ValueError(
                f"row blocks must be uint8 [rows, {width}, 3], but got {block.dtype} {list(block.shape)} after "
                f"{rows} rows."
            )
        rows += len(block)
        if rows > height:
            raise ValueError(f"row blocks must have {height} rows together, but got {rows} or more.")
        if len(block):
            yield block
    if rows < height:
        raise ValueError(f"row blocks must have {height} rows together, but got {rows}.")


def regrouped(blocks: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same picture in new arrays of `rows` rows each; the last has what is left."""
    group, filled = None, 0
    for block in blocks:
        while len(block):
            if group is None:
                group, filled = np.empty((rows, *block.shape[1:]), block.dtype), 0
            count = min(len(block), rows - filled)
            group[filled : filled + count] = block[:count]
            block, filled = block[count:], filled + count
            if filled == rows:
                yield group
                group = None
    if group is not None:
        yield group[:filled]
