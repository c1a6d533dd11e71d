"""Draws things and letters for `drawings`: one shape again and again on a lattice, each a little turned."""

import functools
import math
import string
from collections.abc import Callable

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from bench.small_clip.batch import TAU, Batch, within
from bench.small_clip.kinds import SHAPES

MASK = 256  # pixels; a shape fills some 0.9 of it
Points = list[tuple[float, float]]


def _polar(radius: Callable[[float], float], turn: float = -TAU / 4, count: int = 240) -> Points:
    """A closed outline around the middle; a radius of 1 reaches the border."""
    angles = [TAU * index / count for index in range(count)]
    return [(radius(a) * math.cos(a + turn), radius(a) * math.sin(a + turn)) for a in angles]


def _heart() -> Points:
    angles = [TAU * index / 120 for index in range(120)]
    return [
        (
            0.055 * 16 * math.sin(a) ** 3,
            -0.055 * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) - 0.1,
        )
        for a in angles
    ]


def _star(points: int = 5, inner: float = 0.42) -> Points:
    turns = [TAU * index / (2 * points) - TAU / 4 for index in range(2 * points)]
    return [
        ((inner if i % 2 else 0.95) * math.cos(a), (inner if i % 2 else 0.95) * math.sin(a))
        for i, a in enumerate(turns)
    ]


def _disc(x: float, y: float, rx: float, ry: float | None = None) -> tuple[float, float, float, float]:
    ry = rx if ry is None else ry
    return x - rx, y - ry, x + rx, y + ry


# Parts in order: a list of points is a polygon, four numbers an ellipse; "cut" takes away what follows.
DROP = [(0.0, -0.92)] + [
    (0.6 * math.cos(a), 0.32 + 0.6 * math.sin(a)) for a in (TAU * (i / 60 * 0.58 - 0.04) for i in range(61))
]
PARTS: dict[str, tuple] = {
    "hearts": (_heart(),),
    "stars": (_star(),),
    "crosses": (
        [(-0.28, -0.85), (0.28, -0.85), (0.28, 0.85), (-0.28, 0.85)],
        [(-0.85, -0.28), (0.85, -0.28), (0.85, 0.28), (-0.85, 0.28)],
    ),
    "moons": (_disc(0, 0, 0.88), "cut", _disc(0.42, -0.08, 0.78)),
    "drops": (DROP,),
    "arrows": ([(0, -0.9), (0.7, -0.1), (-0.7, -0.1)], [(-0.25, -0.15), (0.25, -0.15), (0.25, 0.9), (-0.25, 0.9)]),
    "fish": (_disc(-0.15, 0, 0.62, 0.4), [(0.35, 0), (0.92, -0.45), (0.92, 0.45)], "cut", _disc(-0.5, -0.08, 0.09)),
    "butterflies": (
        _disc(-0.48, -0.38, 0.44, 0.46), _disc(0.48, -0.38, 0.44, 0.46), _disc(-0.38, 0.42, 0.32, 0.38),
        _disc(0.38, 0.42, 0.32, 0.38), _disc(0, 0, 0.1, 0.75),
    ),
    "trees": (
        [(0, -0.95), (0.48, -0.25), (-0.48, -0.25)], [(0, -0.55), (0.62, 0.2), (-0.62, 0.2)],
        [(0, -0.1), (0.78, 0.65), (-0.78, 0.65)], [(-0.13, 0.6), (0.13, 0.6), (0.13, 0.95), (-0.13, 0.95)],
    ),
    "mushrooms": (
        _disc(0, -0.15, 0.88, 0.72), "cut", [(-1, 0.08), (1, 0.08), (1, 1), (-1, 1)], "add",
        [(-0.26, 0.05), (0.26, 0.05), (0.32, 0.9), (-0.32, 0.9)], "cut",
        _disc(-0.35, -0.38, 0.16), _disc(0.38, -0.3, 0.13), _disc(0.05, -0.6, 0.1),
    ),
    "eyes": (
        [(-0.95, 0)] + [(x / 10, -0.52 * math.cos(x / 10 * 1.65)) for x in range(-9, 10)] + [(0.95, 0)]
        + [(-x / 10, 0.52 * math.cos(x / 10 * 1.65)) for x in range(-9, 10)],
        "cut", _disc(0, 0, 0.36), "add", _disc(0, 0, 0.2),
    ),
    "suns": (_star(12, 0.66), "cut", _disc(0, 0, 0.58), "add", _disc(0, 0, 0.46)),
    "paws": (
        _disc(0, 0.35, 0.48, 0.42), _disc(-0.68, -0.05, 0.2, 0.27), _disc(-0.25, -0.5, 0.21, 0.3),
        _disc(0.25, -0.5, 0.21, 0.3), _disc(0.68, -0.05, 0.2, 0.27),
    ),
    "clover": (
        _disc(0, -0.48, 0.4), _disc(-0.45, 0.12, 0.4), _disc(0.45, 0.12, 0.4),
        [(-0.06, 0), (0.06, 0), (0.2, 0.92), (0.06, 0.92)],
    ),
}  # fmt: skip
FLOWER = (_polar(lambda a: 0.55 + 0.4 * math.cos(5 * a)), _disc(0, 0, 0.3))
LEAF_SIDE = [(0.5 * math.sin(math.pi * i / 40) ** 0.8, 1.9 * i / 40 - 0.95) for i in range(41)]
LEAF = ([*LEAF_SIDE, *((-x, y) for x, y in reversed(LEAF_SIDE))],)


def _drawn(parts: tuple) -> Tensor:
    image = Image.new("L", (MASK, MASK))
    draw = ImageDraw.Draw(image)
    fill = 255
    for part in parts:
        if isinstance(part, str):
            fill = 0 if part == "cut" else 255
        elif isinstance(part, list):
            draw.polygon([(MASK / 2 * (1 + x), MASK / 2 * (1 + y)) for x, y in part], fill=fill)
        else:
            draw.ellipse([MASK / 2 * (1 + value) for value in part], fill=fill)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(MASK, MASK) / 255


def _letter(letter: str) -> Tensor:
    image = Image.new("L", (MASK, MASK))
    font = ImageFont.load_default(size=MASK)
    # In bold, or nothing of it would be left at 12 pixels.
    ImageDraw.Draw(image).text((MASK / 2, MASK / 2), letter.upper(), 255, font, anchor="mm", stroke_width=MASK // 40)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(MASK, MASK) / 255


@functools.cache
def mask(name: str) -> Tensor:
    """The shape of a kind, 1 inside and 0 outside, softened. [1, 1, 64, 64]"""
    if name.startswith("letter "):
        sharp = _letter(name[-1])
    else:
        sharp = _drawn({"flower": FLOWER, "middle": (_disc(0, 0, 0.26),), "leaf": LEAF}.get(name) or PARTS[name])
    return F.avg_pool2d(F.avg_pool2d(sharp[None, None], 4), 3, 1, 1)


def _stamped(batch: Batch, name: str, size: Tensor, turn: float, gap: float = 1.15, jitter: float = 0.0) -> Tensor:
    """How much of each pixel the shape covers. `size`: its side in pixels; `turn`: the most it turns, in radians."""
    spacing = size * gap
    y, x = batch.y / spacing + batch.uniform(0, 1), batch.x / spacing + batch.uniform(0, 1)
    x = x + 0.5 * (torch.floor(y) % 2) * (batch.uniform(0, 1) > 0.4)
    row, column = torch.floor(y), torch.floor(x)
    phase = batch.uniform(0, TAU)

    def by_chance(a: float, b: float) -> Tensor:
        """A number from -1 to 1 for each place of the lattice."""
        return torch.frac(torch.sin(row * a + column * b + phase) * 43758.5)

    u = (x % 1 - 0.5 + jitter * by_chance(12.9898, 78.233)) * gap
    v = (y % 1 - 0.5 + jitter * by_chance(39.346, 11.135)) * gap
    angle = turn * by_chance(73.156, 52.235)
    u, v = u * angle.cos() + v * angle.sin(), v * angle.cos() - u * angle.sin()
    places = 2 * torch.stack([u, v], -1)
    cover = F.grid_sample(mask(name).expand(batch.count, -1, -1, -1), places, align_corners=False)[:, 0]
    return within((cover - 0.5) * size / 6)


def stamps(batch: Batch) -> Tensor:
    """Shapes and letters; all compositions of a batch are of one kind."""
    name = batch.compositions[0].kind
    size = batch.between("scale", {"small": (12.0, 15.0), "large": (29.0, 42.0), None: (18.0, 25.0)})
    return batch.painted(_stamped(batch, name, size, 0.2))


def leaves(batch: Batch) -> Tensor:
    """Leaves that lie over each other in all directions."""
    size = batch.between("scale", {"small": (9.0, 12.0), "large": (24.0, 32.0), None: (14.0, 19.0)})
    picture = batch.colour("back").expand(-1, -1, batch.size, batch.size)
    for share in (0.6, 0.8, 1.0):
        leaf = _stamped(batch, "leaf", size, 3.14, 0.8, 0.12)
        front = batch.colour("front") * share
        picture = picture + (front - picture) * leaf[:, None]
    return picture


def flowers(batch: Batch) -> Tensor:
    """Five petals around a yellow middle, or a brown one."""
    size = batch.between("scale", {"small": (11.0, 14.0), "large": (27.0, 38.0), None: (16.0, 23.0)})
    state = batch.generator.get_state()
    petals = _stamped(batch, "flower", size, 0.6, 1.15)
    picture = batch.painted(petals)
    batch.generator.set_state(state)
    # The same lattice again, with a disc in the middle of each place.
    middle = _stamped(batch, "middle", size, 0.6, 1.15)
    yellow = [what.front not in ("yellow", "gold", "orange", "lime") for what in batch.compositions]
    colour = torch.tensor([[0.98, 0.82, 0.1] if value else [0.35, 0.2, 0.08] for value in yellow])[:, :, None, None]
    return picture + (colour - picture) * middle[:, None]


SHAPE_DRAWERS: dict[str, Callable[[Batch], Tensor]] = {
    "leaves": leaves,
    "flowers": flowers,
    **dict.fromkeys((*SHAPES, *(f"letter {letter}" for letter in string.ascii_lowercase)), stamps),
}
