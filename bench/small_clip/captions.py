"""Captions of procedural pictures: what the small CLIP model learns from (`bench.small_clip.train`).

A `Composition` is what a caption can say: a kind of pattern, its colours, orientation, scale and density; `caption`
says it in one of many ways and sometimes leaves attributes out. `drawings` draws it.
"""

import random
from dataclasses import dataclass

from bench.small_clip.kinds import EXTENT, FIRST, KINDS, SHARES, THICKNESS

# Hue in degrees, saturation, value: ranges wide enough that the name still holds.
COLOURS = {
    "red": ((-7, 8), (0.75, 1.0), (0.7, 1.0)),
    "orange": ((23, 36), (0.8, 1.0), (0.85, 1.0)),
    "yellow": ((50, 60), (0.7, 1.0), (0.85, 1.0)),
    "green": ((95, 145), (0.6, 1.0), (0.4, 0.85)),
    "cyan": ((172, 190), (0.6, 1.0), (0.7, 1.0)),
    "blue": ((213, 240), (0.65, 1.0), (0.55, 1.0)),
    "purple": ((268, 290), (0.55, 0.95), (0.45, 0.85)),
    "pink": ((320, 342), (0.35, 0.65), (0.9, 1.0)),
    "brown": ((18, 30), (0.55, 0.8), (0.3, 0.5)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.1)),
    "white": ((0, 360), (0.0, 0.05), (0.93, 1.0)),
    "grey": ((0, 360), (0.0, 0.07), (0.35, 0.65)),
    # Between these, and seldomer.
    "magenta": ((298, 310), (0.8, 1.0), (0.8, 1.0)),
    "lime": ((72, 84), (0.75, 1.0), (0.85, 1.0)),
    "teal": ((172, 186), (0.7, 1.0), (0.33, 0.5)),
    "navy": ((220, 242), (0.65, 1.0), (0.18, 0.36)),
    "maroon": ((-10, 4), (0.7, 1.0), (0.28, 0.45)),
    "beige": ((33, 43), (0.18, 0.32), (0.85, 0.95)),
    "gold": ((41, 47), (0.75, 1.0), (0.72, 0.85)),
    "olive": ((56, 68), (0.6, 0.9), (0.35, 0.5)),
    "lavender": ((248, 268), (0.2, 0.38), (0.88, 0.98)),
    "mint": ((140, 160), (0.25, 0.42), (0.9, 1.0)),
}
NEUTRAL = ("black", "white", "grey")
SELDOM = ("magenta", "lime", "teal", "navy", "maroon", "beige", "gold", "olive", "lavender", "mint")
COLOUR_WORDS = {
    "grey": ("grey", "gray"),
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
    "gold": ("gold", "golden"),
}
ORIENTATIONS = ("horizontal", "vertical", "diagonal")
DENSITY = {"sparse": ("sparse", "scattered"), "dense": ("dense", "crowded")}


WRAPPERS = ("{}",) * 6 + (
    "a pattern of {}",
    "a picture of {}",
    "a texture of {}",
    "a photo of {}",
    "an image of {}",
    "a drawing of {}",
    "a painting of {}",
    "a texture with {}",
    "a pattern with {}",
    "{} texture",
    "{} pattern",
    "the {}",
    "a seamless pattern of {}",
)


@dataclass(frozen=True)
class Composition:
    """What a picture shows, as words; None is left to chance. `back` is the second colour."""

    kind: str
    front: str | None
    back: str | None = None
    orientation: str | None = None
    scale: str | None = None
    density: str | None = None


def sample_composition(draw: random.Random, name: str | None = None) -> Composition:
    """A random composition, of that kind if it is given, with every attribute that its kind has."""
    if name is None:
        groups, shares = zip(*SHARES, strict=True)
        name = draw.choice(tuple(draw.choices(groups, shares)[0]))
    kind = KINDS[name]
    if kind.colourful:
        return Composition(name, None, scale=draw.choice((*kind.scales, None)) if kind.scales else None)
    if kind.usual and draw.random() < (0.6 if name in FIRST else 0.85):
        front, back = draw.choice(kind.usual)
    else:
        front, back = two_colours(draw)
        if draw.random() < 0.25:
            back = draw.choice([c for c in NEUTRAL if c != front])
    if kind.symmetric and front > back:
        front, back = back, front
    return Composition(
        name,
        front,
        None if name == "plain" else back,
        draw.choice(ORIENTATIONS) if kind.oriented else None,
        draw.choice((*kind.scales, None)) if kind.scales else None,
        draw.choice((*DENSITY, None)) if kind.dense else None,
    )


def two_colours(draw: random.Random) -> tuple[str, str]:
    """Two different colours, the seldom ones a third as often as others."""
    weights = [1 if name in SELDOM else 3 for name in COLOURS]
    while True:
        front, back = draw.choices(tuple(COLOURS), weights, k=2)
        if front != back:
            return front, back


def caption(what: Composition, draw: random.Random, complete: bool = False) -> str:
    """A sentence for a composition; unless `complete`, attributes are left out now and then."""
    kind = KINDS[what.kind]
    keep = (lambda chance: True) if complete else (lambda chance: draw.random() < chance)
    words = []
    if what.density and keep(0.7):
        words.append(draw.choice(DENSITY[what.density]))
    if what.scale and keep(0.75):
        words.append(draw.choice(kind.scales[what.scale]))
    if what.orientation and keep(0.85):
        words.append(what.orientation)
    usual = (what.front, what.back) in kind.usual or (what.back, what.front) in kind.usual
    colours, suffix = [], ""
    if what.front and keep(0.35 if usual else 0.9):
        # Who names one colour means that the other is none: white, black, grey, or what such things usually have.
        bright = [name for name in (what.front, what.back) if name not in (*NEUTRAL, None)]
        if what.back and keep(0.95 if len(bright) == 2 and not usual else 0.5):
            pair = [_colour(what.front, draw), _colour(what.back, draw)]
            if kind.symmetric and draw.random() < 0.5:
                pair.reverse()
            if kind.symmetric and (complete or draw.random() < 0.6):
                colours = [f"{pair[0]} and {pair[1]}"]
            else:
                colours = pair[:1]
                suffix = draw.choice((f" on {pair[1]}", f" on a {pair[1]} background", f" over {pair[1]}"))
        else:
            colours = [_colour(bright[0] if bright else what.front, draw)]
    words += colours
    draw.shuffle(words)
    if kind.adjectives and draw.random() < (0.7 if what.kind == "plain" else 0.2):
        adjectives = [*words, draw.choice(kind.adjectives)]
        if what.kind == "plain":
            draw.shuffle(adjectives)
        noun = draw.choice(("pattern", "texture", "surface", "background", "picture"))
        return f"{' '.join(adjectives)} {noun}{suffix}"
    return draw.choice(WRAPPERS).format(" ".join([*words, draw.choice(kind.nouns)]) + suffix)


def _colour(name: str, draw: random.Random) -> str:
    return draw.choice(COLOUR_WORDS.get(name, (name,)))


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    texts = list(WRAPPERS) + ["pattern texture surface background picture on a over and"] + list(COLOURS)
    texts += [word for words in COLOUR_WORDS.values() for word in words] + list(ORIENTATIONS)
    texts += [word for table in (THICKNESS, EXTENT, DENSITY) for words in table.values() for word in words]
    texts += [text for kind in KINDS.values() for text in kind.nouns + kind.adjectives]
    return sorted({word for text in texts for word in text.replace("{}", " ").split()})
