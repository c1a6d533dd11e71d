"""States as files that are read and written by rows: safetensors with one tensor "state" [C, H, W].

The header says after which step the state is, so that a run that starts from it draws the masks that follow.
`safetensors.torch.load_file(path)["state"]` reads one; a file made in that way is read too.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from nca_fast import checkpoint
from nca_fast.fields import field, parsed_object
from nca_fast.files import atomic_path

DTYPES = ("F32", "BF16", "F16")


class StateFile:
    """A saved state.

    Args:
        path: The file.

    Raises:
        OSError, ValueError: It cannot be read, or holds no state.
    """

    def __init__(self, path: Path):
        self.path = path
        with checkpoint.opened(path, "state") as file:
            try:
                state = file.get_slice("state")
                shape, dtype = state.get_shape(), state.get_dtype()
            except SafetensorError:
                shape, dtype = [], "none"
            text = (file.metadata() or {}).get(checkpoint.HEADER_KEY, "{}")
        if len(shape) != 3 or 0 in shape or dtype not in DTYPES:
            raise ValueError(
                f"a state must be a safetensors file with a tensor 'state' [C, H, W] of {', '.join(DTYPES)}, but "
                f"{path} has {shape} of {dtype}. --save-state writes one."
            )
        self.channels, self.height, self.width = shape
        where = f"{checkpoint.HEADER_KEY!r} of state {path}"
        self.step = field({"step": 0} | parsed_object(text, where), "step", int, where, 0, 2**32 - 1)

    def rows(self, first: int, count: int) -> Tensor:
        """Reads rows first to first + count - 1. float32 [C, count, W]"""
        with checkpoint.opened(self.path, "state") as file:
            rows = file.get_slice("state")[:, first : first + count]  # in the mapped file, which may change
            return rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def write_state(path: Path, channels: int, height: int, width: int, blocks: Iterable[Tensor], metadata: dict) -> None:
    """Writes a state, atomically, holding one block of it.

    Args:
        path: The file.
        channels, height, width: Of the state.
        blocks: Its rows from top to bottom: float32 [C, rows, W].
        metadata: What the header shall say, JSON-able.

    Raises:
        OSError: The file cannot be written.
    """
    size = 4 * channels * height * width
    header = {
        "__metadata__": {checkpoint.HEADER_KEY: json.dumps(metadata | {"provenance": checkpoint.provenance()})},
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
    """Counts the bytes of such a file."""
    return 4 * channels * height * width + 4096
