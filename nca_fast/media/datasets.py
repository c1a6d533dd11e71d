"""Sets of small pictures: digits and faces that come with packages, MNIST, CIFAR-10, and folders of pictures."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast.devices import moved
from nca_fast.media.decoding import picture_files
from nca_fast.media.images import load_image
from nca_fast.media.published_sets import published_set
from nca_fast.media.sources import check_data_set

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
            (EMNIST's too, also gzipped), of CIFAR-10's binary version, or of pictures, whose middle square is taken
            and of which broken ones are passed over with a warning. A set may lie in a folder of the folder.
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
        check_data_set(name)
        folder = Path(name)
        split = published_set(folder, 0) or (None if picture_files(folder) else published_set(folder, 1))
        if split is not None:
            return Pictures(name, *(_fitted(part, size, grey) for part in split))
        whole = _folder(folder, size)
    chosen = torch.arange(len(whole)) % TEST_EVERY == TEST_EVERY - 1
    whole = _fitted(whole, size, grey)
    return Pictures(name, whole[~chosen], whole[chosen])


def picture(name: str, size: int, grey: bool) -> Tensor:
    """Reads a picture file as the pictures of a set are: its middle square, [1, 1 or 3, size, size]."""
    return _fitted(_square(load_image(name))[None], size, grey)


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


def _folder(folder: Path, size: int) -> Tensor:
    pictures = []
    for file in picture_files(folder):
        try:
            pictures.append(_resized(_square(load_image(file))[None], size))
        except ValueError as error:
            warnings.warn(f"a picture of the data set is passed over: {error}", stacklevel=3)
    if len(pictures) < TEST_EVERY:
        raise ValueError(
            f"{folder} must hold at least {TEST_EVERY} pictures, but holds {len(pictures)}; and neither in it nor in "
            "folders of it are there IDX files (MNIST's train-images-idx3-ubyte and t10k-images-idx3-ubyte) or those "
            "of CIFAR-10's binary version (data_batch_1.bin ... and test_batch.bin)."
        )
    return torch.cat(pictures)


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
