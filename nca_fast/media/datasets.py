"""Sets of small pictures: digits and faces that come with packages, MNIST, CIFAR-10, and folders of pictures.

Only formats that hold numbers are read; the pickled versions of these sets would execute what they contain.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast.devices import moved
from nca_fast.media.decoding import picture_files
from nca_fast.media.images import load_image

BUNDLED = ("digits", "faces")
CIFAR_RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue planes
TEST_EVERY = 5  # where a set has no test part of its own, every fifth picture is for testing


@dataclass(frozen=True)
class Pictures:
    """A set of pictures.

    Args:
        name: What it was asked for by.
        train, test: [N, 1 or 3, size, size] in [0, 1].
    """

    name: str
    train: Tensor
    test: Tensor

    def to(self, device: torch.device) -> "Pictures":
        """The same pictures on a device."""
        return Pictures(self.name, moved(self.train, device), moved(self.test, device))


def load_pictures(name: str, size: int, grey: bool) -> Pictures:
    """Reads a set of pictures and brings all of them to one size.

    Args:
        name: "digits" (scikit-learn's, 8 x 8), "faces" (scikit-image's, 25 x 25), or a folder: of MNIST's IDX files
            (also gzipped), of CIFAR-10's binary version, or of pictures, whose middle square is taken.
        size: Rows and columns, in pixels.
        grey: One channel; otherwise three.

    Raises:
        ValueError: there is no such set, or a file in it is not what it should be.
        ImportError: a bundled set without its package.
    """
    if name == "digits":
        whole = _digits()
    elif name == "faces":
        whole = _faces()
    else:
        folder = Path(name)
        if not folder.is_dir():
            raise ValueError(
                f"the data set must be {', '.join(BUNDLED)} or a folder, but there is none called {name!r}."
            )
        split = _mnist(folder) or _cifar(folder)
        if split is not None:
            return Pictures(name, *(_fitted(part, size, grey) for part in split))
        whole = _folder(folder, size)
    chosen = torch.arange(len(whole)) % TEST_EVERY == TEST_EVERY - 1
    whole = _fitted(whole, size, grey)
    return Pictures(name, whole[~chosen], whole[chosen])


def picture(name: str, size: int, grey: bool) -> Tensor:
    """Reads a picture file as the pictures of a set are: its middle square, [1, 1 or 3, size, size]."""
    return _fitted(_square(load_image(name))[None], size, grey)


def read_idx(path: Path) -> np.ndarray:
    """Reads the array in an IDX file, the format of MNIST: bytes, big-endian sizes first.

    Args:
        path: The file; gzipped when its name ends in .gz.

    Raises:
        ValueError: another format, another type than unsigned bytes, or another length than the header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Download it again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != 8 or content[3] not in (1, 3):
        raise ValueError(
            f"{path} must begin with the magic number of an IDX file of bytes, 00 00 08 and 01 or 03, but begins with "
            f"{content[:4].hex(' ')}."
        )
    rank = content[3]
    if len(content) < 4 + 4 * rank:
        raise ValueError(f"{path} must hold {rank} sizes, but ends after {len(content)} bytes. Download it again.")
    sizes = struct.unpack_from(f">{rank}I", content, 4)
    expected = 4 + 4 * rank + int(np.prod(sizes, dtype=object))
    if len(content) != expected:
        raise ValueError(
            f"{path} must have {expected} bytes for {' x '.join(map(str, sizes))} values, but has {len(content)}. "
            "Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes)


def read_cifar(path: Path) -> np.ndarray:
    """Reads the pictures in a file of CIFAR-10's binary version, uint8 [N, 3, 32, 32].

    Raises:
        ValueError: the size is not a whole number of records, or there is none.
    """
    content = np.fromfile(path, np.uint8)
    if len(content) == 0 or len(content) % CIFAR_RECORD:
        raise ValueError(
            f"{path} must have a multiple of {CIFAR_RECORD} bytes (a label and 3 x 32 x 32 values each), but has "
            f"{len(content)}. Take the binary version of CIFAR-10, and download it again if it is that."
        )
    return content.reshape(-1, CIFAR_RECORD)[:, 1:].reshape(-1, 3, 32, 32)


def _digits() -> Tensor:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install 'nca-fast[examples]'.") from error
    return torch.from_numpy(load_digits().images).float()[:, None] / 16


def _faces() -> Tensor:
    try:
        from skimage.data import lfw_subset
    except ImportError as error:
        raise ImportError("faces needs scikit-image: pip install 'nca-fast[examples]'.") from error
    return torch.from_numpy(lfw_subset()[:100]).float()[:, None]  # the other half shows no faces


def _mnist(folder: Path) -> tuple[Tensor, Tensor] | None:
    parts = []
    for part in ("train", "t10k"):
        found = sorted(folder.glob(f"{part}-images*idx3-ubyte")) or sorted(folder.glob(f"{part}-images*idx3-ubyte.gz"))
        parts.append(found[0] if found else None)
    if parts == [None, None]:
        return None
    if None in parts:
        raise ValueError(f"{folder} must hold train-images-idx3-ubyte and t10k-images-idx3-ubyte, but one is missing.")
    arrays = [read_idx(path) for path in parts]
    for path, array in zip(parts, arrays, strict=True):
        if array.ndim != 3 or array.size == 0:
            raise ValueError(f"{path} must hold pictures, count x rows x columns, but holds {list(array.shape)}.")
    return tuple(_unit(array)[:, None] for array in arrays)


def _cifar(folder: Path) -> tuple[Tensor, Tensor] | None:
    train, test = sorted(folder.glob("data_batch_*.bin")), folder / "test_batch.bin"
    if not train and not test.exists():
        if (folder / "data_batch_1").exists() or (folder / "batches.meta").exists():
            raise ValueError(
                f"{folder} must hold the binary version of CIFAR-10, but holds the pickled one, which can execute code "
                "and is never loaded. Take cifar-10-binary.tar.gz."
            )
        return None
    if not train or not test.exists():
        raise ValueError(f"{folder} must hold data_batch_1.bin ... and test_batch.bin, but one of them is missing.")
    return _unit(np.concatenate([read_cifar(path) for path in train])), _unit(read_cifar(test))


def _folder(folder: Path, size: int) -> Tensor:
    files = picture_files(folder)
    if len(files) < TEST_EVERY:
        raise ValueError(f"{folder} must hold at least {TEST_EVERY} pictures, but holds {len(files)}.")
    return torch.cat([_resized(_square(load_image(path))[None], size) for path in files])


def _unit(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255)


def _square(picture: Tensor) -> Tensor:
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side]


def _resized(pictures: Tensor, size: int) -> Tensor:
    if pictures.shape[-1] == size:
        return pictures
    return F.interpolate(pictures, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _fitted(pictures: Tensor, size: int, grey: bool) -> Tensor:
    """Brings pictures [N, 1 or 3, h, h] to the size and colors that a model takes."""
    if grey and pictures.shape[1] == 3:  # the weights of ITU-R BT.601, as Pillow's mode L
        pictures = (pictures * pictures.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    if not grey and pictures.shape[1] == 1:
        pictures = pictures.expand(-1, 3, -1, -1)
    return _resized(pictures, size).contiguous()
