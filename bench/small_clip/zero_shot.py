"""How well a CLIP model knows compositions of attributes that it has never seen together (`bench.small_clip.train`)."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.small_clip import captions as patterns
from bench.small_clip import drawings

CLASSES = 500  # held-out compositions among which the right one has to be found
TEMPLATES = 4  # sentences for each, whose vectors are averaged
ATTRIBUTES = ("kind", "front", "back", "orientation", "scale", "density")


def is_held_out(what: patterns.Composition) -> bool:
    """One composition in ten. Plain colours and what has its own have so few that all are trained on."""
    if what.kind == "plain" or patterns.KINDS[what.kind].colourful:
        return False
    return hashlib.blake2b(repr(what).encode(), digest_size=2).digest()[0] % 10 == 0


def compositions(
    count: int,
    draw: random.Random,
    held_out: bool = False,
    pairs: Sequence[Sequence[str]] | None = None,
    kinds: Sequence[str] | None = None,
) -> list[patterns.Composition]:
    """Random ones, of the trained or of the held-out kind; if given, of these pairs of colours or these kinds only."""
    found = []
    while len(found) < count:
        what = patterns.sample_composition(draw, draw.choice(kinds) if kinds else None)
        if (pairs or kinds) and what.back:
            front, back = draw.sample(draw.choice(pairs), 2) if pairs else patterns.two_colours(draw)
            if patterns.KINDS[what.kind].symmetric and front > back:
                front, back = back, front
            what = replace(what, front=front, back=back)
        if is_held_out(what) == held_out:
            found.append(what)
    return found


@torch.no_grad()
def accuracy(
    encode_pictures: Callable[[Tensor], Tensor],
    encode_texts: Callable[[list[str]], Tensor],
    count: int = CLASSES,
    attributes: Sequence[str] = ATTRIBUTES,
) -> dict:
    """Zero-shot accuracy on pictures of held-out compositions.

    Args:
        encode_pictures: [N, 3, 64, 64] in [0, 1] -> vectors [N, D].
        encode_texts: Texts -> vectors [N, D].
        count: How many compositions, all different, one picture each.
        attributes: Which of them to look at one by one.

    Returns:
        "top1": how often the right one is found among all; "kinds": the same for each kind of pattern; "attributes":
        how often the right caption is preferred to those that differ in this attribute alone.
    """
    draw, generator = random.Random(1), torch.Generator().manual_seed(1)
    classes = []
    while len(classes) < count:
        classes += [what for what in compositions(1, draw, held_out=True) if what not in classes]

    def class_vectors(wanted: Sequence[patterns.Composition]) -> Tensor:
        texts = [patterns.caption(what, draw, complete=True) for what in wanted for _ in range(TEMPLATES)]
        vectors = torch.cat([encode_texts(texts[i : i + 512]) for i in range(0, len(texts), 512)])
        return F.normalize(F.normalize(vectors, dim=1).reshape(len(wanted), TEMPLATES, -1).mean(1), dim=1)

    pictures = drawings.render(classes, generator).clamp(0, 1)
    images = torch.cat([F.normalize(encode_pictures(part), dim=1) for part in pictures.split(128)])
    right = (images @ class_vectors(classes).T).argmax(1) == torch.arange(count)
    result = {"classes": count, "top1": round(right.float().mean().item(), 4), "kinds": {}, "attributes": {}}
    for kind in patterns.KINDS:
        of_kind = torch.tensor([what.kind == kind for what in classes])
        if of_kind.any():
            result["kinds"][kind] = round(right[of_kind].float().mean().item(), 3)
    for attribute in attributes:
        hits = [
            int((class_vectors([what, *changed(what, attribute)]) @ image).argmax()) == 0
            for image, what in zip(images, classes, strict=True)
            if getattr(what, attribute) is not None
        ]
        result["attributes"][attribute] = round(sum(hits) / len(hits), 3)
    return result


def changed(what: patterns.Composition, attribute: str) -> list[patterns.Composition]:
    """All compositions that differ in one attribute alone; another kind, of its group, keeps what it has of others."""
    kind = patterns.KINDS[what.kind]
    if attribute != "kind":
        values = {
            "orientation": patterns.ORIENTATIONS,
            "scale": tuple(kind.scales or ()),
            "density": tuple(patterns.DENSITY),
        }.get(attribute, tuple(name for name in patterns.COLOURS if name not in (what.front, what.back)))
        return [replace(what, **{attribute: value}) for value in values if value != getattr(what, attribute)]
    return [
        replace(
            what,
            kind=name,
            orientation=what.orientation if other.oriented else None,
            density=what.density if other.dense else None,
            scale=dict(zip(kind.scales or (), other.scales or (), strict=False)).get(what.scale),
        )
        for name, other in next(group for group, _ in patterns.SHARES if what.kind in group).items()
        if name not in ("plain", what.kind) and not other.colourful and other.symmetric == kind.symmetric
    ]
