"""The maps of a surface that there are, by name; read before torch is loaded."""

from collections.abc import Sequence

from nca_fast.suggestions import closest, did_you_mean

NORMAL, HEIGHT = "normal", "height"
# By name the number of channels of a map; None: 1 for one that is grey, else 3.
_GREY = ("roughness", "metallic", "occlusion", "opacity")
NAMES: dict[str, int | None] = {NORMAL: 3, HEIGHT: 1, **dict.fromkeys(_GREY, 1), "emission": None, "specular": None}


def check_name(name: str) -> None:
    """Raises ValueError for a name that no map has."""
    if name not in NAMES:
        near = closest(str(name), NAMES)
        meant = did_you_mean(near and repr(near))
        raise ValueError(f"a map must be one of {', '.join(NAMES)}, but got {name!r}.{meant}")


def parse_maps(texts: Sequence[str]) -> dict[str, str]:
    """Reads "normal=n.png" and so on: pictures by the names of their maps.

    Raises:
        ValueError: One is no such, has an unknown name, or is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, image = text.partition("=")
        if not equals or not image:
            raise ValueError(f"maps must be NAME=IMAGE, such as normal=normal.png, but got {text!r}.")
        check_name(name)
        if name in found:
            raise ValueError(f"maps must be there once each, but {name} is twice.")
        found[name] = image
    return found
