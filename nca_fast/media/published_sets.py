"""MNIST, its relatives and CIFAR-10 as people have them on their disks: unpacked in many ways, under many names.

Only formats that hold numbers are read; the pickled versions of these sets would execute what they contain.
"""

import gzip
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes
# MNIST's own names, Kaggle's (a dot), EMNIST's and QMNIST's (a prefix, and "test").
_IDX_NAME = re.compile(r"(?P<set>.*?)(?P<part>train|t10k|test)-images[.-]idx3-ubyte(?P<gz>\.gz)?", re.IGNORECASE)
_DEPTH = 3  # folders below the one that was named: data/MNIST/raw, as torchvision has it, and one more
_PIECE = 2**20  # bytes unpacked at a time
_DEFLATE = 1032  # no byte of a gzipped file becomes more


def published_set(folder: Path, depth: int) -> tuple[Tensor, Tensor] | None:
    """Reads a set, [N, 1 or 3, h, w] in [0, 1], for training and for testing; None where there is none.

    Args:
        folder: Where it lies.
        depth: 0 looks in this folder only (and in those that are named like the file in them), 1 below it too.

    Raises:
        ValueError: There are several, or one of which parts are missing, damaged or pickled.
    """
    folders = list(_folders(folder, _DEPTH if depth else 0))
    return _mnist(folder, folders) or _cifar(folder, folders)


def read_idx(path: Path) -> np.ndarray:
    """Reads the array in an IDX file, the format of MNIST: bytes, big-endian sizes first.

    The header decides how much is read, and is compared with the size of the file before.

    Args:
        path: The file, gzipped or not.

    Raises:
        ValueError: another format, another type than unsigned bytes, or another length than the header says.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if zipped:
                with gzip.open(file) as unpacked:
                    return _array(unpacked, path, None)
            return _array(file, path, path.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Download it again.") from error


def _array(file, path: Path, size: int | None) -> np.ndarray:
    """Reads an array; `size`: bytes in the file, None for one that is being unpacked."""
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != 8 or start[3] not in (1, 3):
        raise ValueError(
            f"{path} must begin with the magic number of an IDX file of bytes, 00 00 08 and 01 or 03, but begins with "
            f"{start.hex(' ')}."
        )
    header = file.read(4 * start[3])
    if len(header) < 4 * start[3]:
        raise ValueError(
            f"{path} must hold {start[3]} sizes, but ends after {4 + len(header)} bytes. Download it again."
        )
    sizes = struct.unpack(f">{start[3]}I", header)
    count, begin = int(np.prod(sizes, dtype=object)), 4 + len(header)

    def wrong(found: str) -> ValueError:
        return ValueError(
            f"{path} must have {begin + count} bytes for {' x '.join(map(str, sizes))} values, but has {found}. "
            "Download it again."
        )

    if size is not None and size != begin + count:
        raise wrong(str(size))
    if size is None and count > _DEFLATE * path.stat().st_size:
        raise wrong(f"only {path.stat().st_size}, gzipped")
    values = bytearray()
    while len(values) < count:
        piece = file.read(min(_PIECE, count - len(values)))
        if not piece:
            raise wrong(str(begin + len(values)))
        values += piece
    if file.read(1):  # at the end, gzip compares the checksum
        raise wrong("more")
    return np.frombuffer(values, np.uint8).reshape(sizes)


def read_cifar(path: Path) -> np.ndarray:
    """Reads the pictures in a file of CIFAR-10's binary version, uint8 [N, 3, 32, 32].

    Raises:
        ValueError: the size is not a whole number of records, or there is none.
    """
    size = path.stat().st_size
    if size == 0 or size % CIFAR_RECORD:
        raise ValueError(
            f"{path} must have a multiple of {CIFAR_RECORD} bytes (a label and 3 x 32 x 32 values each), but has "
            f"{size}. Take the binary version of CIFAR-10, and download it again if it is that."
        )
    return np.fromfile(path, np.uint8).reshape(-1, CIFAR_RECORD)[:, 1:].reshape(-1, 3, 32, 32)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    """Lists a folder and those below it that may be read, nearest first; not hidden ones."""
    level = [folder]
    for left in range(depth, -2, -1):
        yield from level
        below = [path for parent in level for path in sorted(parent.iterdir()) if path.is_dir()]
        if left <= 0:  # but those that are named like a file
            below = [path for path in below if _IDX_NAME.fullmatch(path.name)]
        level = [path for path in below if not path.name.startswith(".") and os.access(path, os.R_OK | os.X_OK)]


def _mnist(folder: Path, folders: list[Path]) -> tuple[Tensor, Tensor] | None:
    found: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    for parent in folders:
        # Kaggle's archive unpacks every file into a folder of the file's name.
        home = parent.parent if _IDX_NAME.fullmatch(parent.name) and parent != folder else parent
        for path in sorted(parent.iterdir()):
            match = _IDX_NAME.fullmatch(path.name)
            if match is not None and path.is_file():
                part = "train" if match["part"].lower() == "train" else "test"
                found.setdefault((home, match["set"].lower()), {}).setdefault(part, []).append(path)
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(str(home / f"{name}train-images...") for home, name in found)
        raise ValueError(
            f"{folder} must hold one set, but holds {len(found)}: {names}. Name a folder with one of them."
        )
    ((home, name), parts), *_ = found.items()
    if len(parts) < 2:
        there = next(iter(parts.values()))[0].name
        raise ValueError(
            f"{home} must hold train-images-idx3-ubyte and t10k-images-idx3-ubyte, gzipped or not, but one is missing "
            f"beside {there}."
        )
    arrays = []
    for part in ("train", "test"):
        path = min(parts[part], key=lambda path: path.suffix.lower() == ".gz")  # torchvision keeps both
        array = read_idx(path)
        if array.ndim != 3 or array.size == 0:
            raise ValueError(f"{path} must hold pictures, count x rows x columns, but holds {list(array.shape)}.")
        arrays.append(array.transpose(0, 2, 1) if name.startswith("emnist") else array)  # EMNIST's lie on their side
    return tuple(_unit(array)[:, None] for array in arrays)


def _cifar(folder: Path, folders: list[Path]) -> tuple[Tensor, Tensor] | None:
    homes = [home for home in folders if any(home.glob("data_batch_*.bin")) or (home / "test_batch.bin").exists()]
    if not homes:
        for home in folders:
            if (home / "data_batch_1").exists() or (home / "batches.meta").exists():
                raise ValueError(
                    f"{home} must hold the binary version of CIFAR-10, but holds the pickled one, which can execute "
                    "code and is never loaded. Take cifar-10-binary.tar.gz."
                )
        return None
    if len(homes) > 1:
        raise ValueError(f"{folder} must hold one set, but holds {', '.join(map(str, homes))}. Name one of them.")
    home = homes[0]
    train, test = sorted(home.glob("data_batch_*.bin")), home / "test_batch.bin"
    if not train or not test.exists():
        raise ValueError(f"{home} must hold data_batch_1.bin ... and test_batch.bin, but one of them is missing.")
    return _unit(np.concatenate([read_cifar(path) for path in train])), _unit(read_cifar(test))


def _unit(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255)
