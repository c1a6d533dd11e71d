"""What the automata of the zoo learn, and with which settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from bench.held_set import textures
from bench.held_set.sprites import sprite
from bench.zoo import drawings
from nca_fast.media.images import load_image


@dataclass(frozen=True)
class Item:
    """One automaton.

    Args:
        system: "texture", "style" or "grow".
        title: What it draws.
        picture: Makes what it learns.
        source: Where that comes from.
        licence: Of that.
        settings: Of its training, where they are not the defaults.
    """

    system: str
    title: str
    picture: Callable[[], Tensor | Image.Image]
    source: str
    licence: str = "CC0"
    settings: dict[str, Any] = field(default_factory=dict)


def _drawn(system: str, title: str, module: Any, name: str, **settings: Any) -> Item:
    return Item(
        system, title, getattr(module, name), f"a drawing of ours ({module.__name__}.{name})", settings=settings
    )


def _sprite(title: str, name: str) -> Item:
    source = f"a drawing of ours (bench.held_set.sprites, {name})"
    return Item("grow", title, lambda: sprite(name), source, settings={"image_size": 40})


LADYBIRD = Path(__file__).parents[2] / "examples" / "ladybird.png"
HALF = {"image_crop": 256, "image_size": 128, "canvas_size": 64}  # all of a drawing, one cell for two pixels
SMALL = HALF | {"canvas_size": 48}  # more iterations in the same time
QUARTER = {"image_crop": 256, "image_size": 64, "canvas_size": 64}  # one cell for four
PHOTO = {"image_crop": 512, "image_size": 128, "canvas_size": 64}  # all of a photograph, likewise
ITEMS = {
    "bark": _drawn("texture", "the bark of an old tree", drawings, "bark", **HALF),
    "bricks": Item(
        "texture",
        "a wall of bricks",
        lambda: load_image("skimage:brick"),
        "brick, a photograph of D. Savva, in scikit-image",
        settings=PHOTO,
    ),
    "circles": _drawn("texture", "translucent discs on cream", textures, "circles", **HALF),
    "cobbles": _drawn("texture", "cobblestones, lit from above", textures, "cobbles", **HALF),
    "coral": _drawn("texture", "brain coral, salmon and violet", drawings, "coral", **SMALL),
    "giraffe": _drawn("texture", "a giraffe's coat", drawings, "giraffe", **SMALL),
    "gravel": Item(
        "texture",
        "gravel",
        lambda: load_image("skimage:gravel"),
        "gravel, a photograph of D. Savva, in scikit-image",
        settings=PHOTO,
    ),
    "lava": _drawn("texture", "plates of lava with glowing seams", drawings, "lava", **HALF),
    "leaves": _drawn("texture", "autumn leaves on the ground", textures, "leaves", **HALF),
    "marble": _drawn("texture", "green marble with pale veins", textures, "marble", **QUARTER),
    "moss": _drawn("texture", "a cushion of moss", drawings, "moss", **HALF),
    "scales": _drawn("texture", "a fish's scales, teal and gold", textures, "scales", **HALF),
    "terrazzo": _drawn("texture", "a floor with chips of coloured stone", drawings, "terrazzo", **HALF),
    "water": _drawn("texture", "sunlight on the floor of a pool", drawings, "water", **HALF),
    # Of seed 0 it is torn at --scale 2.
    "weave": _drawn("texture", "a basket of blue and straw", textures, "weave", **HALF, seed=1),
    "wood": _drawn("texture", "a plank of pine", drawings, "wood", **HALF),
    "zebra": _drawn("texture", "a zebra's coat", drawings, "zebra", **SMALL),
    "etching": _drawn("style", "ink lines on cream", textures, "etching"),
    "night": _drawn("style", "thick strokes of blue and yellow oil", textures, "brush"),
    "points": _drawn("style", "dots of pure colour, as pointillists laid them", textures, "points"),
    "glass": _drawn("style", "stained glass in black leads", textures, "glass"),
    "ladybird": Item(
        "grow",
        "a ladybird that grows from one cell, and heals",
        lambda: Image.open(LADYBIRD),
        "a drawing of ours (examples/ladybird.py)",
    ),
    "mushroom": _sprite("a mushroom that grows from one cell, and heals", "mushroom"),
    "rocket": _sprite("a rocket that grows from one cell, and heals", "rocket"),
}
