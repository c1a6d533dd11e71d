"""What stands for pictures on a command line: a file, "skimage:NAME", a data set; looked at before torch is loaded."""

import os
from collections.abc import Sequence

from nca_fast.suggestions import closest, closest_path, did_you_mean

SKIMAGE = "skimage:"
# The pictures inside scikit-image's wheel; its other names would start a download.
SKIMAGE_PICTURES = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel",
    "horse", "hubble_deep_field", "immunohistochemistry", "logo", "microaneurysms", "moon", "page", "retina",
    "rocket", "text",
)  # fmt: skip
DATA_SETS = ("digits", "faces")  # that come with packages


def check_picture_source(
    name: str, folders: bool = False, what: str = "the picture", others: Sequence[str] = ()
) -> None:
    """Refuses what stands for no picture.

    Args:
        name: Of a file, or "skimage:NAME".
        folders: Whether a folder of pictures will do.
        what: How errors call it: the option that it is the value of.
        others: What else may be named here, such as "zoo:gravel", and meant by "gravel".

    Raises:
        ValueError: There is no such file, or no such picture of scikit-image, or it is a folder.
    """
    if name.startswith(SKIMAGE):
        bare = name.removeprefix(SKIMAGE)
        if bare not in SKIMAGE_PICTURES:
            near = closest(bare, SKIMAGE_PICTURES)
            meant = did_you_mean(near and f"{SKIMAGE}{near}")
            raise ValueError(f"skimage:NAME must be one of {', '.join(SKIMAGE_PICTURES)}; but got {bare!r}.{meant}")
    elif not os.path.exists(name):
        known = [*others, *(f"{SKIMAGE}{picture}" for picture in SKIMAGE_PICTURES)]
        near = closest(name, [one.partition(":")[2] for one in known])
        named = [one for one in known if one.partition(":")[2] == near]
        meant = did_you_mean(closest_path(name, lambda path: folders or path.is_file()), *named)
        raise ValueError(f"{what} must be an existing file or 'skimage:NAME', but there is no {name!r}.{meant}")
    elif os.path.isdir(name) and not folders:
        raise ValueError(f"{what} must be a file, but {name!r} is a folder.")


def check_data_set(name: str) -> None:
    """Raises ValueError for what is neither one of `DATA_SETS` nor a folder."""
    if name not in DATA_SETS and not os.path.isdir(name):
        found = f"{name!r} is a file: name its folder" if os.path.exists(name) else f"there is none called {name!r}"
        meant = did_you_mean(closest(name, DATA_SETS))
        raise ValueError(f"the data set must be {', '.join(DATA_SETS)} or a folder, but {found}.{meant}")
