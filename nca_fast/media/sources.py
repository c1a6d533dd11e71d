"""What stands for pictures on a command line: a file, "skimage:NAME", a data set; looked at before torch is loaded."""

import difflib
import os

SKIMAGE = "skimage:"
# The pictures inside scikit-image's wheel; its other names would start a download.
SKIMAGE_PICTURES = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel",
    "horse", "hubble_deep_field", "immunohistochemistry", "logo", "microaneurysms", "moon", "page", "retina",
    "rocket", "text",
)  # fmt: skip
DATA_SETS = ("digits", "faces")  # that come with packages


def check_picture_source(name: str, folders: bool = False) -> None:
    """Refuses what stands for no picture.

    Args:
        name: Of a file, or "skimage:NAME".
        folders: Whether a folder of pictures will do.

    Raises:
        ValueError: There is no such file, or no such picture of scikit-image, or it is a folder.
    """
    if name.startswith(SKIMAGE):
        bare = name.removeprefix(SKIMAGE)
        if bare not in SKIMAGE_PICTURES:
            near = difflib.get_close_matches(bare, SKIMAGE_PICTURES, 1)
            meant = f" Did you mean {SKIMAGE}{near[0]}?" if near else ""
            raise ValueError(f"skimage:NAME must be one of {', '.join(SKIMAGE_PICTURES)}; but got {bare!r}.{meant}")
    elif not os.path.exists(name):
        raise ValueError(f"the picture must be an existing file or 'skimage:NAME', but there is no {name!r}.")
    elif os.path.isdir(name) and not folders:
        raise ValueError(f"the picture must be a file, but {name!r} is a folder.")


def check_data_set(name: str) -> None:
    """Raises ValueError for what is neither one of `DATA_SETS` nor a folder."""
    if name not in DATA_SETS and not os.path.isdir(name):
        found = f"{name!r} is a file: name its folder" if os.path.exists(name) else f"there is none called {name!r}"
        raise ValueError(f"the data set must be {', '.join(DATA_SETS)} or a folder, but {found}.")
