"""States as files that are read and written by rows: safetensors with one tensor "state" [C, H, W].

The header says after which step the state is, so that a run that starts from it draws the masks that follow.
`safetensors.torch.load_file(path)["state"]` reads one; a file made in that way is read too.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import checkpoint
from nca_fast.files import atomic_path

NAMES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class StateFile:
    """A saved state.

    Args:
        path: The file.

    Raises:
        OSError, ValueError: It cannot be read, or holds no state.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size)) if size < 2**24 else {}
                length = os.fstat(file.fileno()).st_size
        except (UnicodeDecodeError, json.JSONDecodeError):
            header = {}
        facts = header.get("state") if isinstance(header, dict) else None
        lengths = [len(facts.get(name, ())) for name in ("shape", "data_offsets")] if isinstance(facts, dict) else None
        if lengths != [3, 2] or facts.get("dtype") not in NAMES:
            raise ValueError(
                f"a state must be a safetensors file with a tensor 'state' [C, H, W] of {', '.join(NAMES)}, but {path} "
                "is something else. --save-state writes one."
            )
        self.channels, self.height, self.width = facts["shape"]
        self.dtype = NAMES[facts["dtype"]]
        self._begin = 8 + size + facts["data_offsets"][0]
        if self._begin + math.prod(facts["shape"]) * self.dtype.itemsize > length:
            raise ValueError(f"state {path} must be complete, but it is cut short ({length} bytes). Save it again.")
        about = json.loads(header.get("__metadata__", {}).get(checkpoint.HEADER_KEY, "{}"))
        self.step = about.get("step", 0)

    def rows(self, first: int, count: int) -> Tensor:
        """Rows first to first + count - 1. float32 [C, count, W]"""
        low = torch.empty(self.channels, count, self.width, dtype=self.dtype)
        with open(self.path, "rb") as file:
            for channel in range(self.channels):
                file.seek(self._begin + (channel * self.height + first) * self.width * self.dtype.itemsize)
                view = memoryview(low[channel].view(torch.uint8).reshape(-1).numpy())
                if file.readinto(view) != len(view):
                    raise OSError(f"state {self.path} was cut short while it was read.")
        return low.float()


def write_state(path: Path, channels: int, height: int, width: int, blocks: Iterable[Tensor], about: dict) -> None:
    """Writes a state, atomically, holding one block of it.

    Args:
        path: The file.
        channels, height, width: Of the state.
        blocks: Its rows from top to bottom: float32 [C, rows, W].
        about: What the header shall say, JSON-able.

    Raises:
        OSError: The file cannot be written.
    """
    size = 4 * channels * height * width
    header = {
        "__metadata__": {checkpoint.HEADER_KEY: json.dumps(about | {"provenance": checkpoint.provenance()})},
        "state": {"dtype": "F32", "shape": [channels, height, width], "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, open(temporary, "r+b") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        row, begin = 0, file.tell()
        for block in blocks:
            for channel in range(channels):
                file.seek(begin + (channel * height + row) * width * 4)
                file.write(block[channel].contiguous().numpy())
            row += block.shape[1]


def state_bytes(channels: int, height: int, width: int) -> int:
    """Size of such a file."""
    return 4 * channels * height * width + 4096
