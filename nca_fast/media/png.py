"""PNG written row by row, so that a picture of any size needs little memory; and read without what hangs on it.

Pillow wants the whole picture at once, and pypng (0.20220715) writes rows without filters, one Python call each.

Source: Portable Network Graphics (PNG) Specification, Third Edition, W3C 2025.
"""

import io
import struct
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nca_fast.media.row_blocks import PictureFormat, one_file, regrouped

PIECE = 2**20  # bytes filtered and compressed at a time
UP = 2  # the filter: each byte less the one above it

# On textures of trained automata (bench/NOTES.md) the filter "up" with level 1 is within 4 % of the smallest file that
# any one filter and level reached, at 60 MB/s; Paeth with level 6 gains those 4 % at 10 MB/s.
LEVEL = 1

# What Pillow is shown of a PNG. It would refuse a picture for the checksum, length or size of any other chunk.
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
LARGEST_PROFILE = 2**24  # bytes; the largest that people use have 4 MB


def pixels_and_profile(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """Leaves out the chunks of a PNG that do not make its pixels, and those that are broken, as viewers do.

    Args:
        file: At its beginning.

    Returns:
        A PNG in memory, of the first picture where there are several, and its colour profile, if it has one.
    """
    kept, profile, header = io.BytesIO(), None, b""
    kept.write(file.read(8))
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind not in (*PIXELS, b"iCCP"):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        content, checksum = file.read(length), file.read(4)
        whole = checksum == struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
        if kind == b"IHDR":
            header = content
        if kind == b"iCCP" and whole:
            profile = _profile(content)
        elif kind == b"tRNS" and whole:
            _chunk(kept, kind, _transparent(content, *header[8:10]))
        elif kind not in (b"iCCP", b"tRNS") and (whole or kind != b"eXIf"):  # Pillow says what is wrong with the rest
            kept.write(start + content + checksum)
    kept.seek(0)
    return kept, profile


def _profile(content: bytes) -> bytes:
    """Unpacks a profile (name, 0, method, deflated bytes); one that cannot be is returned as it is, broken."""
    packed = content.partition(b"\0")[2][1:]
    try:
        return zlib.decompressobj().decompress(packed, LARGEST_PROFILE)
    except zlib.error:
        return packed


def _transparent(content: bytes, depth: int, color: int) -> bytes:
    """Brings the value that is transparent to the 8 bits that Pillow makes of 2, 4 and (in color) 16."""
    values = struct.unpack(f">{len(content) // 2}H", content[: len(content) // 2 * 2])
    if color == 0 and depth in (2, 4):
        return struct.pack(">H", values[0] * (255 // (2**depth - 1))) if values else content
    if color == 2 and depth == 16:
        return struct.pack(f">{len(values)}H", *(value >> 8 for value in values))
    return content


_KINDS = {1: 0, 3: 2, 4: 6}  # the format's number of grey, RGB and RGBA, by channels


def write_png(
    path: Path, height: int, width: int, blocks: Iterable[np.ndarray], channels: int = 3, depth: int = 8
) -> None:
    """Writes a picture; the same bytes however it is cut into blocks.

    Args:
        path: The file.
        height: Rows of the picture, in pixels.
        width: Columns of the picture, in pixels.
        blocks: See `row_blocks.checked`; with 16 bits uint16 [rows, width, channels].
        channels: 1 is grey, 3 RGB, 4 RGB with transparency.
        depth: Bits of a number, 8 or 16.
    """
    compressor, line = zlib.compressobj(LEVEL), channels * width * depth // 8
    rows_at_once = max(1, PIECE // line)
    above = np.zeros(line, np.uint8)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _KINDS[channels], 0, 0, 0))
        for rows in regrouped(blocks, rows_at_once):
            rows = (rows.astype(">u2").view(np.uint8) if depth == 16 else rows).reshape(-1, line)
            filtered = np.empty((len(rows), 1 + line), np.uint8)
            filtered[:, 0] = UP
            np.subtract(rows[0], above, out=filtered[0, 1:])
            np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
            above = rows[-1].copy()
            _chunk(file, b"IDAT", compressor.compress(filtered))
        _chunk(file, b"IDAT", compressor.flush())
        _chunk(file, b"IEND", b"")


def _bytes_needed(height: int, width: int) -> int:
    """Counts noise, which does not get smaller, and a chunk around every piece."""
    content = height * (1 + 3 * width)
    return content + content // 1000 + 12 * (height + content // PIECE) + 1024


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    """Writes length, kind, content, checksum. Image data that the compressor still holds back makes no chunk."""
    if content or kind == b"IEND":
        file.write(struct.pack(">I", len(content)) + kind)
        file.write(content)
        file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


PNG = PictureFormat(
    largest_side=2**31 - 1,  # the specification's limit
    write=one_file(write_png),
    write_rgba=one_file(partial(write_png, channels=4)),
    bytes_needed=_bytes_needed,
    bytes_held=lambda height, width: 5 * max(PIECE, 3 * width) + 2**20,
)
