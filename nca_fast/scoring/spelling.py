"""The command that measures a model, spelled so that it can be typed."""

import shlex
from collections.abc import Mapping
from typing import Any


def reference(original: str | None, texture: str | None = None) -> str:
    """Spells the options that name the original of a model, each after a space: no path that a file names is followed.

    Args:
        original: What the model's file names; None: nothing.
        texture: Which one of an automaton that knows several.

    Returns:
        Nothing for a picture of scikit-image, which is found without.
    """
    if original is not None and original.startswith("skimage:"):
        return ""
    which = f" --texture {shlex.quote(texture)}" if texture else ""
    return f"{which} --reference {'PICTURE' if original is None else shlex.quote(original)}"


def scoring(model: str, originals: Mapping[str | None, Any]) -> str:
    """Spells the command that measures a model; of several textures one, where not all are found by their names.

    Args:
        model: As it is to be typed.
        originals: What it learned, as its file names it, by the name of the texture; None of one that is alone.
    """
    named = {name: source if isinstance(source, str) else None for name, source in originals.items()}
    needed = (reference(source, name) for name, source in named.items())
    return f"nca-fast score {shlex.quote(model)}{next(filter(None, needed), '')}"
