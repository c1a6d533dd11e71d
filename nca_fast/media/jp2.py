"""The colour profile of a JPEG 2000 file, which Pillow leaves where it is.

Source: ITU-T T.800 (JPEG 2000 Part 1), annex I: boxes of a length, a kind and content, some of further boxes.
"""

import io
import struct
from typing import BinaryIO

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
LARGEST_HEADER = 2**25  # bytes of the box that describes a picture; a profile is its largest part
_RESTRICTED, _ANY = 2, 3  # methods by which a colour is specified that hold a profile


def profile_of(file: BinaryIO) -> bytes | None:
    """Reads the profile of a JP2 file, from its beginning; None where it has none, or is damaged."""
    header = _content(file, b"jp2h", LARGEST_HEADER)
    color = header and _content(io.BytesIO(header), b"colr", len(header))
    return color[3:] if color and color[0] in (_RESTRICTED, _ANY) else None


def _content(file: BinaryIO, kind: bytes, most: int) -> bytes | None:
    """Reads the first box of a kind, if it is no longer than that."""
    while len(start := file.read(8)) == 8:
        length, found = struct.unpack(">I4s", start)
        if length == 1 and len(more := file.read(8)) == 8:
            length = struct.unpack(">Q", more)[0] - 8
        if length < 8:  # 0: to the end of the file, as pixels are
            return None
        if found == kind:
            return file.read(length - 8) if length - 8 <= most else None
        file.seek(length - 8, io.SEEK_CUR)
    return None
