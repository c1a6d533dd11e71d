"""Maps of a surface that a texture training learns together with its colours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast.fields import field
from nca_fast.map_names import NAMES, NORMAL, parse_maps
from nca_fast.media.images import load_image, source_name
from nca_fast.nca import NCA
from nca_fast.surfaces import facing
from nca_fast.training.capture import Captured
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import SavedRun

Judge = tuple[Captured, Callable[[torch.Generator], list[Tensor]]]

UNITS_IN_STEPS_OF = 16  # hidden ones, for the vectors of a CPU


@dataclass(frozen=True, eq=False)
class Learned:
    """A map to learn.

    Args:
        name: One of `surfaces.NAMES`.
        image: Where it comes from; None for one that is no file.
        target: What is learned, [1 or 3, h, w] in [0, 1].
    """

    name: str
    image: str | None
    target: Tensor

    def facts(self) -> dict[str, Any]:
        """What the model file says of it."""
        return {"name": self.name, "image": self.image, "channels": len(self.target)}


def open_maps(
    texts: Sequence[str],
    size: tuple[int, int],
    shrink: Callable[[Tensor], Tensor],
    saved: SavedRun | None,
    out: Path,
) -> list[Learned]:
    """Opens the maps of a picture, or those of the run to resume, which given ones must equal.

    Args:
        texts: As `parse_maps` reads them.
        size: Rows and columns of the picture, in pixels; for a run to resume they do not matter.
        shrink: Makes what is learned of a map [3, H, W], as of the picture.
        saved: The run to resume, or None.
        out: The run's folder, for errors.

    Raises:
        ValueError: A map cannot be read, is of another size than the picture, or is not that of the run.
    """
    given = parse_maps(texts)
    if saved is None:
        return [_opened(name, image, size, shrink) for name, image in given.items()]
    where, known = saved.metadata.where, []
    for facts in field(saved.metadata, "maps", tuple[dict, ...], where) if "maps" in saved.metadata else ():
        name, channels = field(facts, "name", str, where), field(facts, "channels", int, where, 1)
        image = field(facts, "image", str | None, where)
        known.append(Learned(name, image, saved.tensors.tensor(tensor_name(name), (channels, None, None))))
    if given:
        opened = [_opened(name, image, None, shrink) for name, image in given.items()]
        same = [one.name for one in opened] == [one.name for one in known]
        if not (same and all(torch.equal(a.target, b.target) for a, b in zip(opened, known, strict=True))):
            names = ", ".join(one.name for one in known) or "none"
            raise ValueError(f"maps must be those of the run in {out} ({names}), or left out where it goes on.")
    return known


def tensor_name(name: str) -> str:
    """Names a map among the tensors of a run."""
    return f"target_{name}"


def _opened(name: str, image: str, size: tuple[int, int] | None, shrink: Callable[[Tensor], Tensor]) -> Learned:
    whole = load_image(image)
    if size is not None and tuple(whole.shape[1:]) != size:
        raise ValueError(
            f"map {name} must have the {size[0]} x {size[1]} pixels of the picture, but {image!r} has "
            f"{whole.shape[1]} x {whole.shape[2]}: scale it."
        )
    grey = torch.equal(whole[0], whole[1]) and torch.equal(whole[0], whole[2])
    target = shrink(whole)
    if name == NORMAL:
        return Learned(name, source_name(image), facing(target))
    single = NAMES[name] == 1 or grey
    return Learned(name, source_name(image), target.mean(0, keepdim=True) if single else target)


def for_maps(nca: NCA, maps: Sequence[Learned]) -> NCA:
    """Makes an automaton with fresh weights like one of colours alone that has channels for maps, and as many more
    hidden units.

    Raises:
        ValueError: Its colours are not its first channels, as those of the presets for textures are.
    """
    rule = nca.rule
    if rule.frozen or nca.rgb_channel or rule.alive_channel is not None:
        raise ValueError(
            "preset must be an automaton whose colours are its first channels, and without frozen and alive channels, "
            "to draw maps. The default, texture, is one."
        )
    channels = {one.name: len(one.target) for one in maps}
    more = rule.channels + sum(channels.values())
    wide = (round(width * more / rule.channels / UNITS_IN_STEPS_OF) * UNITS_IN_STEPS_OF for width in rule.hidden)
    hidden = tuple(max(before, width) for before, width in zip(rule.hidden, wide, strict=True))
    return NCA(replace(rule, channels=more, hidden=hidden), start=nca.start, maps=channels)


@dataclass(frozen=True, eq=False)
class View:
    """A picture that shows a part of what is learned.

    Args:
        target: What it shall be, [3, h, w].
        of: States [B, C, H, W] -> what they show, [B, 3, H, W], not clamped.
    """

    target: Tensor
    of: Callable[[Tensor], Tensor]


def views(nca: NCA, albedo: Tensor, maps: Sequence[Learned]) -> tuple[list[View], list[View]]:
    """Lists the pictures by which colours and maps are judged: each for itself, and every two of them in one, which
    says how they go together."""
    shown: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
        "": (albedo, lambda states: nca.to_rgb(states, clamp=False))
    }
    for one in maps:
        shown[one.name] = (one.target, lambda states, name=one.name: nca.to_map(states, name, clamp=False))
    single = [View(_three(target), lambda states, of=of: _three(of(states))) for target, of in shown.values()]
    pairs = []
    for (a, (first, of_first)), (b, (second, of_second)) in combinations(shown.items(), 2):

        def both(states: Tensor, a=a, b=b, of_first=of_first, of_second=of_second) -> Tensor:
            return _three(torch.cat([_said(a, of_first(states)), _said(b, of_second(states))], -3))

        pairs.append(View(_three(torch.cat([_said(a, first), _said(b, second)], -3)), both))
    return single, pairs


def judged_together(single: Sequence[Judge], pairs: Sequence[Judge]) -> Objective:
    """Makes the losses of a batch by the mean of what all pictures say for themselves, and one of the pairs: in turn at
    random, because all of them would take most of the time.

    Args:
        single, pairs: Losses, (states, what is drawn) -> named scalars, and what draws for them.
    """

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        which = int(torch.randint(len(pairs), (), generator=generator))
        total: dict[str, Tensor] = {}
        for captured, draw in (*single, pairs[which]):
            for name, loss in captured(states, drawn=draw(generator)).items():
                total[name] = total[name] + loss if name in total else loss
        return {name: loss / (len(single) + 1) for name, loss in total.items()}

    return objective


def _said(name: str, picture: Tensor) -> Tensor:
    """What a map says in one channel, or, where it is of directions, two: the third follows from those."""
    return picture[..., :2, :, :] if name == NORMAL else picture.mean(-3, keepdim=True)


def _three(picture: Tensor) -> Tensor:
    """Makes three channels of one, two, or three: with the mean of them."""
    count = picture.shape[-3]
    if count == 2:
        return torch.cat([picture, picture.mean(-3, keepdim=True)], -3)
    return picture if count == 3 else picture.expand(*picture.shape[:-3], 3, -1, -1)
