"""What somebody may have meant who typed a name that is none."""

import contextlib
import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

_ALIKE = 0.75  # share of letters in common: a letter or two that are wrong, and not another word of the same ending


def closest(word: str, known: Iterable[str]) -> str | None:
    """Finds the known word that is most like one; None where none is much like it."""
    near = closest_ones(word, known, 1)
    return near[0] if near else None


def closest_ones(word: str, known: Iterable[str], most: int) -> list[str]:
    """Lists known words that are much like one, at most so many, the most alike first."""
    return difflib.get_close_matches(word, list(known), most, _ALIKE)


def closest_path(path: str | Path, fits: Callable[[Path], bool]) -> str | None:
    """Finds what is called most like a path in the same folder, and fits; None where nothing is, or none can look."""
    path = Path(path)
    with contextlib.suppress(OSError):
        near = closest(path.name, [beside.name for beside in path.parent.iterdir() if fits(beside)])
        return None if near is None else str(path.with_name(near))
    return None


def did_you_mean(*words: str | None) -> str:
    """Asks for each word that is one, as a sentence that follows another; nothing where none is."""
    said = [word for word in words if word is not None]
    return f" Did you mean {' or '.join(said)}?" if said else ""
