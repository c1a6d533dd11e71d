"""Numbers of bytes as people write them."""

import re

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Reads a size such as "2GiB", "500MB" or "4 G".

    Raises:
        ValueError: It is no such size, or not above 0.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", text.lower())
    try:
        size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"memory must be a size such as 2GiB or 500MB, but got {text!r}.")
    return size


def in_words(size: float) -> str:
    """Writes a number of bytes for people: "3.2 GiB", "640.0 MiB"."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 1024:.1f} KiB"
