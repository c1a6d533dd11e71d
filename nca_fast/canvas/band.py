"""Rows of a canvas, in memory or in a file, that give way to their successors strip by strip.

One copy of the state is kept. Its rows lie in a ring of somewhat more places than rows, and a pass writes every new row
`shift` places before the old one, where a row lies that nobody needs any more:

    old rows         [halo above][ 0 ............................ rows - 1 ][halo below]
    new rows    [ 0 ............................ rows - 1 ]
                 <- shift ->

A strip of rows a to b - 1 is computed from the old rows a - halo to b + halo - 1, and its new rows end before old row
b - shift. With shift = halo, the old rows that later strips need stay whole: enough in memory. With shift = halo + the
rows of a strip, those of the strip itself stay whole too, so that where a process was killed while it wrote, at any
moment, another can compute the strip again: that is how a file is kept.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nca_fast.canvas.memory import zeros

PIECE = 2**24  # bytes that are converted at a time where the state is kept in 16 bits
BLOCK = 2**24  # cells times channels that are handy to hold


@dataclass
class Position:
    """How far a band has come. With the band's file, it is what a process needs to go on where another was killed.

    Args:
        step: Steps that all rows have taken.
        pass_steps: Steps of the pass that is under way, whose halo lies in the band; 0 between passes.
        above, below: Rows of that halo.
        row: First row of the strip that comes next in it.
        base: Place of row 0 in the band's ring.
    """

    step: int = 0
    pass_steps: int = 0
    above: int = 0
    below: int = 0
    row: int = 0
    base: int = 0


class Band:
    """Rows 0 to rows - 1 of a state, and room for `halo` rows above and below them.

    Args:
        channels: C.
        rows: How many rows.
        width: Columns.
        halo: Rows above and below that can be kept. Rows -halo to rows + halo - 1 can be read.
        shift: See the module. At least `halo`.
        dtype: In which the state is kept: float32, bfloat16 or float16. It is computed in float32.
        path: File to keep it in, which is made and has zeros everywhere, or with `base` opened; None for memory.
        base: Place of row 0 in the ring, of a file that another process left.
        device: Of the memory; None is the CPU.

    Raises:
        EOFError: The file that another process left is gone, or of another size.
        OSError: The file cannot be made that large, or opened.
    """

    def __init__(
        self,
        channels: int,
        rows: int,
        width: int,
        *,
        halo: int = 0,
        shift: int = 0,
        dtype: torch.dtype = torch.float32,
        path: Path | None = None,
        base: int | None = None,
        device: torch.device | None = None,
    ):
        self.channels, self.rows, self.width, self.halo, self.shift = channels, rows, width, halo, shift
        self.dtype, self.path, self.base = dtype, path, base or 0
        self.places = ring_rows(rows, halo, shift)
        self.memory = self._file = None
        if path is None:
            self.memory = zeros((channels, self.places, width), dtype, device)
            return
        size = channels * self._plane()
        if base is not None:
            found = path.stat().st_size if path.exists() else None
            if found != size:
                raise EOFError("there is none." if found is None else f"it has {found} bytes and not {size}.")
        self._file = open(path, "r+b" if base is not None else "w+b", buffering=0)  # noqa: SIM115 (see close)
        if base is None:
            try:
                _reserve(self._file, size)
            except OSError as error:
                self.remove()
                raise OSError(error.errno, f"cannot make a file of {size} bytes for the state: {error}") from error

    @property
    def device(self) -> torch.device:
        """Finds where the state lies; a file counts as the CPU."""
        return torch.device("cpu") if self.memory is None else self.memory.device

    def close(self) -> None:
        """Closes the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Closes and removes the file."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def read(self, first: int, count: int, out: Tensor | None = None) -> Tensor:
        """Reads rows first to first + count - 1. float32 [C, count, width], into `out` where it is given."""
        out = torch.empty(self.channels, count, self.width) if out is None else out
        self._move(self.base + first, out, self._read_plane)
        return out

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, int]]:
        """Cuts the rows from top to bottom into (first row, number of rows), `rows` at a time; None: a handy number."""
        rows = max(1, BLOCK // (self.channels * self.width)) if rows is None else rows
        return ((row, min(rows, self.rows - row)) for row in range(0, self.rows, rows))

    def write(self, first: int, x: Tensor) -> None:
        """Replaces rows from `first` on. x: [C, count, width], or the first channels alone."""
        self._move(self.base + first, x, self._write_plane)

    def write_next(self, first: int, x: Tensor) -> None:
        """Writes new rows from `first` on, which `turn` makes the rows. x: [C, count, width]"""
        self._move(self.base - self.shift + first, x, self._write_plane)

    def turn(self) -> None:
        """Makes the new rows the rows; the halo is then none of theirs."""
        self.base = (self.base - self.shift) % self.places

    def put(self, channel: int, at: int, values: Tensor) -> None:
        """Writes values that lie in a row in a channel, from place `at` of row 0 on; before the first `turn`."""
        if self.memory is not None:
            self.memory[channel].view(-1)[at : at + len(values)] = values
        else:
            self._put(channel, at, values)

    def _plane(self):
        return self.places * self.width * self.dtype.itemsize

    def _move(self, place, x, move):
        """Moves rows that may lie at the end and at the beginning of the ring."""
        place %= self.places
        until_end = min(x.shape[1], self.places - place)
        for channel in range(len(x)):
            move(channel, place, x[channel, :until_end])
            if until_end < x.shape[1]:
                move(channel, 0, x[channel, until_end:])

    def _read_plane(self, channel, place, rows):
        if self.memory is not None:
            rows.copy_(self.memory[channel, place : place + len(rows)])
            return
        values = rows.view(-1)
        at = channel * self._plane() + place * self.width * self.dtype.itemsize
        if self.dtype == torch.float32:
            _read_exactly(self._file, values, at)
            return
        for piece in values.split(PIECE // 4):
            low = torch.empty(len(piece), dtype=self.dtype)
            _read_exactly(self._file, low, at)
            piece.copy_(low)
            at += low.nbytes

    def _write_plane(self, channel, place, rows):
        if self.memory is not None:
            self.memory[channel, place : place + len(rows)] = rows
        else:
            self._put(channel, place * self.width, rows.reshape(-1))

    def _put(self, channel, at, values):
        at = channel * self._plane() + at * self.dtype.itemsize
        for piece in values.split(PIECE // 4):
            low = piece.to(self.dtype)
            view = memoryview(_bytes(low))
            while len(view):
                written = write_at(self._file, at, view)
                view, at = view[written:], at + written


def ring_rows(rows: int, halo: int, shift: int) -> int:
    """Counts the places that a band has, in rows."""
    return rows + halo + max(halo, shift)


def _bytes(values: Tensor) -> np.ndarray:
    return values.view(torch.uint8).numpy()


def write_at(file: FileIO, at: int, data: memoryview) -> int:
    """Writes bytes at a place of a file, or the first of them; returns how many. (os.pwrite is not everywhere.)"""
    file.seek(at)
    return file.write(data)


def _read_exactly(file, values, at):
    view = memoryview(_bytes(values))
    file.seek(at)
    while len(view):
        count = file.readinto(view)
        if count == 0:
            raise OSError(f"the state in {file.name} must have {at + values.nbytes} bytes, but it was cut short.")
        view = view[count:]


def _reserve(file, size):
    """Makes a file of that many zeros, at once on the disk where the system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # the file system cannot
                raise
    file.truncate(size)
