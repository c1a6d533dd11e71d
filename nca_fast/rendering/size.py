"""The canvas and the steps for a trained automaton when nobody names any: what its file says about its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 1024  # cells on a side that no file can make larger
STEPS, SIDE = 256, 256  # where a file says nothing
LARGER = 4  # times the canvas of the training, on which a texture shows that it goes on
GROWN_STEPS, GROWN_ZOOM = 200, 4  # of a picture that grows out of one cell, which has the size of its training


@dataclass(frozen=True)
class Size:
    """A canvas of so many rows and columns, so many steps, and pixels along the side of a cell."""

    side: int
    steps: int
    zoom: int = 1


def sensible_size(provenance: Mapping[str, Any]) -> Size:
    """Finds a size for an automaton.

    Args:
        provenance: What its file says of how it was made; anything may be missing, or be nonsense.

    Returns:
        For what grows out of a cell the canvas of the training, enlarged; for others four times that canvas, and as
        many steps as the training took for its own picture.
    """
    config = provenance.get("config")
    config = config if isinstance(config, Mapping) else {}
    side = _number(provenance, "side", 0) or _number(config, "image_size", 0)
    if provenance.get("system") == "grow" and side:
        side += 0 if "side" in provenance else 2 * _number(config, "image_margin", 0)
        return Size(min(side, LARGEST), GROWN_STEPS, GROWN_ZOOM)
    return Size(min(LARGER * side or SIDE, LARGEST), shown_steps(provenance) or STEPS)


def shown_steps(provenance: Mapping[str, Any]) -> int | None:
    """Finds after how many steps the picture of an automaton is there.

    All who ask, `render`, `apply`, `fill`, `export` and the page, ask here; `shownSteps` of web/source/model.js is the
    same for a file that is dropped on the page.

    Args:
        provenance: As in `sensible_size`.

    Returns:
        The first whole number from 1 to 65536 that the file names; None where it names none.
    """
    config = provenance.get("config")
    config = config if isinstance(config, Mapping) else {}
    places = ((provenance, "shown_steps"), (provenance, "steps"), (config, "picture_steps"), (config, "steps_max"))
    return next(filter(None, (_number(facts, name, 0) for facts, name in places)), None)


def _number(facts: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = facts.get(name)
    return value if type(value) is int and 1 <= value <= 65536 else otherwise
