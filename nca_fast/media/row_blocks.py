"""A picture that is too large to hold: row blocks, arrays uint8 [rows, width, 3], that follow each other downwards."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nca_fast.files import atomic_path


@dataclass(frozen=True)
class PictureFormat:
    """How a picture becomes a file.

    Args:
        largest_side: In pixels.
        write: (path, height, width, row blocks) -> the files written, in the order in which a user looks at them. They
            appear when they are complete, and not otherwise.
        bytes_needed: (height, width) -> upper bound of the room on the disk, whatever the picture shows.
        bytes_held: (height, width) -> upper bound of the memory that `write` takes beside the blocks.
        check: (path) raises FileExistsError where something lies that must not be replaced.
        write_rgba: As `write`, of blocks with transparency, uint8 [rows, width, 4]; None where the format has none.
    """

    largest_side: int
    write: Callable[[Path, int, int, Iterable[np.ndarray]], list[Path]]
    bytes_needed: Callable[[int, int], int]
    bytes_held: Callable[[int, int], int]
    check: Callable[[Path], None] = lambda path: None
    write_rgba: Callable[[Path, int, int, Iterable[np.ndarray]], list[Path]] | None = None


def one_file(write: Callable[[Path, int, int, Iterable[np.ndarray]], None]) -> Callable[..., list[Path]]:
    """Makes `PictureFormat.write` of a function that writes one file, half of which may be left after an error."""

    def write_atomically(path: Path, height: int, width: int, blocks: Iterable[np.ndarray]) -> list[Path]:
        with atomic_path(path) as temporary:
            write(temporary, height, width, blocks)
        return [path]

    return write_atomically


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


def with_alpha(blocks: Iterable[np.ndarray], alpha: np.ndarray) -> Iterator[np.ndarray]:
    """Adds transparency, uint8 [height, width], to the blocks of a picture."""
    row = 0
    for block in blocks:
        yield np.concatenate([block, alpha[row : row + len(block), :, None]], 2)
        row += len(block)


def over_white(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Lays blocks with transparency, uint8 [rows, width, 4], over white."""
    for block in blocks:
        color, alpha = block[..., :3].astype(np.uint16), block[..., 3:].astype(np.uint16)
        yield ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def regrouped(blocks: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Cuts the same picture into new arrays of `rows` rows each; the last has what is left."""
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
