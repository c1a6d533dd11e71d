"""Captions of procedural pictures: what the small CLIP model learns from (`bench.small_clip.train`).

A `Composition` is what a caption can say: a kind of pattern, its colours, orientation, scale and density; `caption`
says it in one of many ways and sometimes leaves attributes out. `pattern_drawings` draws it.
"""

import random
from dataclasses import dataclass

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
}
COLOUR_WORDS = {"grey": ("grey", "gray"), "purple": ("purple", "violet"), "cyan": ("cyan", "turquoise")}
ORIENTATIONS = ("horizontal", "vertical", "diagonal")
THICKNESS = {"thin": ("thin", "narrow", "fine"), "thick": ("thick", "wide", "broad")}
EXTENT = {"small": ("small", "tiny", "little"), "large": ("large", "big", "huge")}
DENSITY = {"sparse": ("sparse", "scattered"), "dense": ("dense", "crowded")}


@dataclass(frozen=True)
class Kind:
    """What a pattern is called, and which attributes it has.

    Args:
        nouns: Names in the plural or as a mass ("bricks", "noise").
        adjectives: As in "a striped pattern".
        scales: Names of small and large, with their synonyms; empty where scale has no meaning.
        oriented: It runs in one direction.
        symmetric: Both colours play the same part, so "on" tells nothing.
        dense: It can be sparse or dense.
        usual: Colours that it has when a caption names none, as zebras are black and white.
    """

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...] = ()
    scales: dict | None = None
    oriented: bool = False
    symmetric: bool = False
    dense: bool = False
    usual: tuple[tuple[str, str], ...] = ()


KINDS = {
    "plain": Kind(("colour", "color"), ("plain", "solid", "uniform")),
    "stripes": Kind(("stripes", "lines", "bars"), ("striped",), THICKNESS, oriented=True, symmetric=True),
    "waves": Kind(("waves", "wavy lines", "wavy stripes"), ("wavy",), THICKNESS, oriented=True, symmetric=True),
    "zigzags": Kind(("zigzags", "chevrons", "zigzag lines"), ("zigzag",), THICKNESS, oriented=True, symmetric=True),
    "checks": Kind(("checks", "squares", "checkerboard"), ("checkered",), EXTENT, symmetric=True),
    "grid": Kind(("grid", "grid lines", "mesh"), (), EXTENT),
    "honeycomb": Kind(("honeycomb", "hexagons"), (), EXTENT),
    "dots": Kind(("dots", "polka dots", "discs"), ("dotted",), EXTENT, dense=True),
    "rings": Kind(("rings", "circles"), (), EXTENT, dense=True),
    "target": Kind(("concentric rings", "concentric circles", "target"), ("concentric",), THICKNESS, symmetric=True),
    "spots": Kind(("spots", "blobs", "patches"), ("spotted",), EXTENT, dense=True),
    "maze": Kind(("maze", "labyrinth"), (), THICKNESS, symmetric=True),
    "zebra": Kind(
        ("zebra", "zebra stripes", "zebra skin", "zebra fur"),
        scales=THICKNESS,
        symmetric=True,
        usual=(("black", "white"),),
    ),
    "leopard": Kind(
        ("leopard", "leopard fur", "leopard spots", "leopard skin"),
        scales=EXTENT,
        usual=(("black", "orange"), ("black", "yellow"), ("black", "brown")),
    ),
    "bricks": Kind(
        ("bricks", "brick wall", "brick", "masonry"),
        scales=EXTENT,
        usual=(("red", "grey"), ("red", "white"), ("brown", "grey"), ("orange", "grey")),
    ),
    "clouds": Kind(("clouds", "smoke", "fog"), ("cloudy",), symmetric=True, usual=(("white", "blue"),)),
    "noise": Kind(("noise", "random noise", "static"), ("noisy", "random")),
}
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


def sample_composition(draw: random.Random) -> Composition:
    """A random composition with every attribute that its kind has."""
    name = draw.choice(tuple(KINDS))
    kind = KINDS[name]
    if name == "noise":
        return Composition(name, None)
    if kind.usual and draw.random() < 0.6:
        front, back = draw.choice(kind.usual)
    else:
        front, back = draw.sample(tuple(COLOURS), 2)
        if draw.random() < 0.25:
            back = draw.choice([c for c in ("black", "white", "grey") if c != front])
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
    if what.front and keep(0.2 if usual else 0.9):
        colours = [_colour(what.front, draw)]
        if what.back and keep(0.7):
            back = _colour(what.back, draw)
            if kind.symmetric and draw.random() < 0.5:
                colours.reverse()
            if (kind.symmetric and draw.random() < 0.6) or (complete and kind.symmetric):
                pair = [colours[0], back]
                if draw.random() < 0.5:
                    pair.reverse()
                colours = [f"{pair[0]} and {pair[1]}"]
            else:
                first, second = colours[0], back
                if kind.symmetric and draw.random() < 0.5:
                    first, second = second, first
                colours = [first]
                suffix = draw.choice((f" on {second}", f" on a {second} background", f" over {second}"))
        elif kind.symmetric and what.back and draw.random() < 0.5:
            colours = [_colour(what.back, draw)]
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
