"""The pictures of a training that learns several textures with one automaton, and how a batch of all is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast.code_biases import off_by
from nca_fast.fields import field
from nca_fast.media.images import source_name
from nca_fast.nca import NCA
from nca_fast.textures import MOST, all_codes, check_names, names_of, one_hot
from nca_fast.training.capture import Captured
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import SavedRun

OWN = 3  # a third of the hidden units that a cell uses are its texture's own; the others are shared by all


@dataclass(frozen=True, eq=False)
class Swatch:
    """A texture to learn.

    Args:
        name: How it is called.
        image: Where its picture comes from; None for one that is no file.
        crop: Pixels of the picture that are learned, from side to side.
        target: What is learned, [3, h, w] in [0, 1].
    """

    name: str
    image: str | None
    crop: int
    target: Tensor

    def facts(self) -> dict[str, Any]:
        """What the model file says of it."""
        return {"name": self.name, "image": self.image, "crop": self.crop}


def open_swatches(
    images: Sequence[str | Path | Tensor],
    names: Sequence[str],
    read: Callable[[str | Path | Tensor], tuple[Tensor, int]],
    saved: SavedRun | None,
    out: Path,
) -> list[Swatch]:
    """Opens several pictures, or those of the run to resume, which given ones must equal.

    Args:
        images: Files, names or pictures, none or more than one.
        names: Of the textures; empty: from those of the files.
        read: Opens one: what is learned of it, and its crop.
        saved: The run to resume, which has several, or None.
        out: The run's folder, for errors.

    Raises:
        ValueError: Too many, names that do not fit, or pictures or names that are not those of the run.
    """
    if len(images) > MOST:
        raise ValueError(f"image must be at most {MOST} pictures for one automaton, but got {len(images)}.")
    if names and saved is None and len(names) != len(images):
        raise ValueError(f"names must be one for each picture, but got {len(names)} for {len(images)}.")
    check_names(names)
    if saved is None:
        sources = [source_name(image) for image in images]
        opened = zip(names or names_of(sources), sources, map(read, images), strict=True)
        return [Swatch(name, source, crop, target) for name, source, (target, crop) in opened]
    where = saved.metadata.where
    known = [
        Swatch(
            field(facts, "name", str, where),
            field(facts, "image", str | None, where),
            field(facts, "crop", int, where, 1),
            saved.tensors.tensor(tensor_name(number), (3, None, None)),
        )
        for number, facts in enumerate(field(saved.metadata, "textures", tuple[dict, ...], where))
    ]
    asked = f"are not the {len(known)} textures of the run in {out}: {', '.join(swatch.name for swatch in known)}"
    if names and list(names) != [swatch.name for swatch in known]:
        raise ValueError(f"names must be left out where a run goes on, but {', '.join(names)} {asked}.")
    same = not images or (
        len(images) == len(known)
        and all(torch.equal(read(image)[0], swatch.target) for image, swatch in zip(images, known, strict=True))
    )
    if not same:
        shown = ", ".join(source_name(image) or "a picture" for image in images)
        raise ValueError(f"image must be left out where a run goes on, but {shown} {asked}.")
    return known


def tensor_name(number: int) -> str:
    """Names a target among the tensors of a run; the first is called as if it were the only one."""
    return f"target{number or ''}"


def for_textures(nca: NCA, names: Sequence[str]) -> NCA:
    """Makes an automaton with fresh weights like one of a single texture that knows several: before the channels of a
    cell lie those of a code, which only the cell itself reads. Neighbours would tell it where a border of two textures
    is, which no training shows.

    Under each code as many units of the first hidden layer are at work as an automaton of one texture has. One in `OWN`
    of them works for this texture alone: other codes turn it off, by weights that no training lowers, because what is
    off has no gradient. So each texture keeps something that the others do not undo, and a rollout in training costs
    what one of a single texture does. Where the activation is not relu, all units are at work under all codes.

    Raises:
        ValueError: The automaton has a use for frozen channels, or a cell that lives and dies.
    """
    rule, codes = nca.rule, one_hot(names)
    if rule.frozen or rule.alive_channel is not None or rule.learned_filters:
        raise ValueError(
            "preset must be an automaton without frozen channels, alive channel and learned filters to learn several "
            f"textures, but it has {rule.frozen} frozen channels, alive channel {rule.alive_channel} and "
            f"{rule.learned_filters} learned filters. The default, texture, has none."
        )
    count = len(next(iter(codes.values())))
    own = rule.hidden[0] // OWN if rule.hidden else 0
    hidden = tuple(width + own * (count - 1) * (layer == 0) for layer, width in enumerate(rule.hidden))
    rule = replace(rule, channels=rule.channels + count, frozen=count, hidden=hidden)
    several = NCA(rule, rgb_channel=nca.rgb_channel + count, start=nca.start, textures=codes)
    with torch.no_grad():
        # A filter that adds up to 0 sees nothing of a code that is the same everywhere; no training changes these.
        maps = several.layers[0].weight.view(-1, rule.inputs // rule.channels, rule.channels)
        for number, filter in enumerate(rule.filters):
            if abs(sum(map(sum, filter.taps))) < 1e-6:
                maps[:, number, :count] = 0
        found = off_by(rule)
        if own and found is not None:
            seen, off = found
            others = 1 - torch.eye(count).repeat_interleave(own, 0)
            maps[-own * count :, seen, :count] = torch.where(others > 0, off, maps[-own * count :, seen, :count])
    return several


def turns(nca: NCA, count: int) -> Tensor:
    """Makes codes of so many states that take the textures in turn, [count, frozen, 1, 1]."""
    codes = all_codes(nca.textures)
    return codes[torch.arange(count) % len(codes), :, None, None].to(nca.device)


def judged_each(judges: Sequence[tuple[Captured, Callable[[torch.Generator], list[Tensor]]]], nca: NCA) -> Objective:
    """Makes the losses of a batch in which every state is to become the texture whose code it holds.

    Args:
        judges: For each texture its losses, (states, what is drawn) -> named scalars, sums over samples, and what
            draws for them.
        nca: The automaton.
    """
    codes = all_codes(nca.textures).to(nca.device)

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = [draw(generator) for _, draw in judges]  # all, so that processes with other states draw the same
        held = states[:, : nca.rule.frozen, 0, 0].detach()
        which = torch.cdist(held.float(), codes).argmin(1).tolist()
        total: dict[str, Tensor] = {}
        for number, (captured, _) in enumerate(judges):
            mine = [sample for sample, texture in enumerate(which) if texture == number]
            if mine:
                for name, loss in captured(states[mine], drawn=drawn[number]).items():
                    total[name] = total[name] + loss if name in total else loss
        return total

    return objective
