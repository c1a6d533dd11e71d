"""Several textures in one automaton: each is a code, a few numbers that a cell holds, reads and never writes.

The codes lie in the frozen channels of the state, so which texture grows where is a matter of the start state alone.
Between two codes lie blends of their textures.

Source: Pajouheshgar et al., "Multi-texture synthesis through signal responsive neural cellular automata", 2024 (arXiv
2407.05991), whose codes are the n bits of a number and not one channel for each texture.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast.fields import field
from nca_fast.files import MODEL_FILE
from nca_fast.suggestions import closest, did_you_mean

MOST = 8  # textures of an automaton
_UNFIT = re.compile(r"[^\w.-]+")  # what has a meaning of its own where textures are named

Codes = Mapping[str, Sequence[float]]


def one_hot(names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Gives each texture a channel of its own, which is 1 for it and 0 for the others.

    Raises:
        ValueError: There are more than `MOST`.
    """
    if len(names) > MOST:
        raise ValueError(f"textures of one automaton must be at most {MOST}, but got {len(names)}.")
    return {name: tuple(float(mine == i) for i in range(len(names))) for mine, name in enumerate(names)}


def all_codes(textures: Codes) -> Tensor:
    """Stacks the codes of all textures in their order, [n, channels]."""
    return torch.stack([mixed(textures, name) for name in textures])


def names_of(sources: Iterable[str | None]) -> list[str]:
    """Names pictures by their files without folder and ending, "skimage:brick" by what follows the colon; those without
    a name are "texture", and the second of a name is that name with -2."""
    names: list[str] = []
    for source in sources:
        stem = Path(source.removeprefix("skimage:")).stem if source else ""
        stem = _UNFIT.sub("-", stem).strip("-") or "texture"
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def model_name(model: str | Path) -> str:
    """Names an automaton of a single texture by its file or folder: brick for runs/brick/model.safetensors, bark for
    zoo:bark."""
    path = Path(str(model).removeprefix("zoo:"))
    path = path.parent if path.name == MODEL_FILE else path
    return names_of([path.name])[0]


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for names that are there twice, or that cannot be told from what stands around them."""
    unfit = [name for name in names if not isinstance(name, str) or not name or _UNFIT.search(name)]
    if unfit:
        raise ValueError(
            f"names of textures must be letters, digits and any of _ . - but got {unfit[0]!r}: choose another."
        )
    if len(set(names)) < len(names):
        raise ValueError(f"names of textures must differ, but got {', '.join(names)}.")


def checked_codes(textures: Codes, frozen: int) -> dict[str, tuple[float, ...]]:
    """The codes of an automaton's textures, as floats.

    Args:
        textures: By name; may be empty.
        frozen: So many frozen channels the automaton has; a code has a number for each.

    Raises:
        ValueError: There are too many, or a name or a code is no such.
    """
    if not isinstance(textures, Mapping):
        raise ValueError(f"textures must be codes by name, but got {type(textures).__name__}.")
    if len(textures) > MOST:
        raise ValueError(f"textures of one automaton must be at most {MOST}, but got {len(textures)}.")
    check_names(list(textures))
    for name, code in textures.items():
        numbers = isinstance(code, Sequence) and all(
            type(value) in (int, float) and math.isfinite(value) for value in code
        )
        if not numbers or len(code) != frozen:
            raise ValueError(
                f"the code of texture {name!r} must be {frozen} finite numbers, one for each frozen channel of the "
                f"rule, but got {code!r}."
            )
    return {name: tuple(map(float, code)) for name, code in textures.items()}


def mixed(textures: Codes, shares: Mapping[str, float] | str | None = None) -> Tensor:
    """The code of a blend.

    Args:
        textures: Codes by name, of an automaton that has some.
        shares: What of each, at least 0, of which only the ratios count; the name of one; None: the first.

    Returns:
        float32 [frozen].

    Raises:
        ValueError: There is no such texture, or the shares are no such.
    """
    shares = {next(iter(textures)) if shares is None else shares: 1.0} if not isinstance(shares, Mapping) else shares
    for name in shares:
        _known(name, textures)
    if not all(0 <= share < float("inf") for share in shares.values()) or not any(shares.values()):
        raise ValueError(f"shares of textures must be at least 0 and not all 0, but got {dict(shares)}.")
    largest = max(shares.values())
    shares = {name: share / largest for name, share in shares.items()}  # whose sum is finite
    whole = sum(shares.values())
    # In float64, whose rounding is gone in float32, so that the code of one alone is its code.
    parts = [torch.tensor(textures[name], dtype=torch.float64) * (share / whole) for name, share in shares.items()]
    return torch.stack(parts).sum(0).float()


def named(facts: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Reads what a model file says of the textures that it knows: dicts of name, image and crop; none of one alone."""
    kinds = {"name": (str,), "image": (str | None,), "crop": (int, 1)}
    listed = field(facts, "textures", tuple[dict, ...], where) if "textures" in facts else ()
    return [{key: field(entry, key, kind, where, *low) for key, (kind, *low) in kinds.items()} for entry in listed]


def parse_shares(text: str, textures: Codes) -> dict[str, float]:
    """Reads a texture or a blend of several, "brick" or "brick:0.7,grass:0.3".

    Raises:
        ValueError: There is no such texture, or one is there twice or without its share.
    """
    parts = [part.partition(":") for part in text.split(",")]
    shares: dict[str, float] = {}
    for name, colon, share in parts:
        _known(name, textures)
        try:
            number = float(share) if colon else 1.0
        except ValueError:
            number = math.nan
        if name in shares or not 0 <= number < float("inf") or (len(parts) > 1 and not colon):
            raise ValueError(
                "a blend of textures must name each once with a share of at least 0, such as "
                f"{':0.7,'.join(list(textures)[:2])}:0.3, but got {text!r}."
            )
        shares[name] = number
    if not any(shares.values()):
        raise ValueError(f"a blend of textures must have a share above 0, but got {text!r}.")
    return shares


def _known(name: str, textures: Codes) -> None:
    if name not in textures:
        near = closest(name, textures)
        meant = did_you_mean(near and repr(near))
        raise ValueError(f"texture must be one of {', '.join(textures)}, but got {name!r}.{meant}")


def tiling(count: int) -> Tensor:
    """Lays so many textures out in a rectangle of equal parts, as square as may be: number of the texture in each part,
    int64 [rows, columns]. Parts that are left begin with the first again."""
    columns = math.ceil(math.sqrt(count)) if count > 3 else count
    rows = math.ceil(count / columns)
    return (torch.arange(rows * columns) % count).view(rows, columns)
