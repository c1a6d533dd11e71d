"""Twelve textures and four styles: crops of pictures that packages bundle, and drawings of ours. [3, H, W] in [0, 1]

Today's defaults were chosen on brick, gravel, grass and immunohistochemistry, which are not among them.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nca_fast.media.images import load_image

SIDE = 256  # pixels of the drawings
TAU = 2 * math.pi


def sklearn_picture(name: str) -> Tensor:
    """One of scikit-learn's two photographs: china or flower."""
    from sklearn.datasets import load_sample_image

    return torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1).float() / 255


def crop(picture: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return picture[:, top : top + height, left : left + width].contiguous()


def grid() -> tuple[np.ndarray, np.ndarray]:
    return np.mgrid[:SIDE, :SIDE].astype(float)


def wrapped(distance: np.ndarray) -> np.ndarray:
    return (distance + SIDE / 2) % SIDE - SIDE / 2


def noise(random: np.random.Generator, period: float, width: float = 0.5) -> np.ndarray:
    """Smooth noise on the torus, mean 0 and variance 1, its waves about `period` pixels long."""
    rows, columns = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]
    octaves = np.log2(np.maximum(np.hypot(rows, columns), 1e-6) * period)
    field = np.fft.ifft2(np.fft.fft2(random.standard_normal((SIDE, SIDE))) * np.exp(-((octaves / width) ** 2))).real
    return field / field.std()


def voronoi(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of the torus the nearest of `count` points, and how much further the second is, in pixels."""
    return cells(random.random((count, 2)) * SIDE)


def cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of the torus the nearest of `points` [n, 2], and how much further the second is, in pixels."""
    y, x = grid()
    distances = np.hypot(wrapped(y[..., None] - points[:, 0]), wrapped(x[..., None] - points[:, 1]))
    nearest = np.sort(np.partition(distances, 1, axis=2)[..., :2], axis=2)
    return distances.argmin(2), nearest[..., 1] - nearest[..., 0]


def picture_of(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(np.clip(rgb, 0, 1)).permute(2, 0, 1).float().contiguous()


def colours(random: np.random.Generator, palette: list, count: int, spread: float = 0.06) -> np.ndarray:
    """Colours drawn from a palette, a little apart. [count, 3]"""
    chosen = np.array(palette)[random.integers(len(palette), size=count)]
    return np.clip(chosen + spread * random.standard_normal((count, 3)), 0, 1)


def stroked(
    rgb: np.ndarray, y: float, x: float, angle: float, length: float, width: float, colour, cover: float, bend=0.0
) -> None:
    """Lays a stroke, an ellipse along a bent line, onto the torus `rgb`."""
    reach = int(max(length, width)) + 2
    rows, columns = (np.arange(int(middle) - reach, int(middle) + reach + 2) for middle in (y, x))
    down, right = (rows - y)[:, None], (columns - x)[None]
    along = right * math.cos(angle) + down * math.sin(angle)
    across = down * math.cos(angle) - right * math.sin(angle) - bend * along**2
    inside = np.clip((1 - np.hypot(along / length, across / width)) * width + 0.5, 0, 1) * cover
    place = np.ix_(rows % SIDE, columns % SIDE)
    rgb[place] += inside[..., None] * (np.asarray(colour) - rgb[place])


def circles() -> Tensor:
    """Translucent discs of many colours on cream."""
    random = np.random.default_rng(1)
    rgb = np.ones((SIDE, SIDE, 3)) * (0.97, 0.94, 0.86)
    palette = [(0.9, 0.25, 0.2), (0.1, 0.5, 0.7), (0.95, 0.7, 0.1), (0.2, 0.6, 0.35), (0.45, 0.2, 0.5)]
    for colour in colours(random, palette, 60):
        radius = random.uniform(10, 26)
        stroked(rgb, *random.random(2) * SIDE, 0, radius, radius, colour, 0.65)
    return picture_of(rgb)


def weave() -> Tensor:
    """A basket of blue and straw-coloured bands, over and under."""
    y, x = grid()
    period, random = 32, np.random.default_rng(2)
    column, row = (x // period).astype(int), (y // period).astype(int)
    over = (column + row) % 2 == 0
    across = np.where(over, x % period, y % period) / period
    along = np.where(over, y % period, x % period) / period
    height = np.sin(np.pi * across) ** 0.5 * (0.55 + 0.45 * np.sin(np.pi * along))
    fibres = 0.06 * np.where(over, noise(random, 4), noise(random, 5))
    colour = np.where(over[..., None], (0.85, 0.72, 0.45), (0.2, 0.35, 0.6))
    return picture_of(colour * (0.15 + 0.95 * height + fibres)[..., None])


def scales() -> Tensor:
    """Rows of round scales, teal with a golden rim."""
    y, x = grid()
    width, step = 32, 16
    rgb = np.zeros((SIDE, SIDE, 3))
    random = np.random.default_rng(3)
    for row in range(-3, SIDE // step + 3):  # from top to bottom, the lower ones below those above
        for column in range(-1, SIDE // width + 1):
            cy, cx = row * step, (column + 0.5 * (row % 2)) * width
            distance = np.hypot(y - cy, x - cx) / (width * 0.56)
            inside = (distance < 1) & (y >= cy - 2)
            shade = 0.45 + 0.4 * distance + 0.05 * random.standard_normal()
            colour = np.where((distance > 0.84)[..., None], (0.95, 0.75, 0.3), (0.1, 0.55, 0.55))
            empty = inside & (rgb.sum(2) == 0)
            rgb[empty] = (colour * shade[..., None])[empty]
    return picture_of(rgb)


def cobbles() -> Tensor:
    """Warm stones of all shapes in dark joints, lit from above."""
    random = np.random.default_rng(4)
    cell, gap = voronoi(random, 130)
    stone = np.clip(gap / 7, 0, 1) ** 0.6
    light = np.gradient(stone, axis=0) * 1.2
    tone = colours(random, [(0.6, 0.5, 0.42), (0.72, 0.62, 0.5), (0.5, 0.45, 0.45)], 130, 0.04)[cell]
    return picture_of(tone * (0.2 + 0.8 * stone + light + 0.05 * noise(random, 3))[..., None])


def marble() -> Tensor:
    """Dark green marble with pale veins, which meander."""
    random = np.random.default_rng(5)
    y, x = grid()
    phase = TAU * (2 * x + y) / SIDE + 1.5 * noise(random, 110) + 0.5 * noise(random, 40) + 0.2 * noise(random, 14)
    vein = np.exp(-((np.sin(phase) / 0.12) ** 2)) + 0.4 * np.exp(-((np.sin(2 * phase + noise(random, 60)) / 0.1) ** 2))
    ground = 0.5 + 0.12 * noise(random, 30) + 0.05 * noise(random, 6)
    low, high = np.array((0.06, 0.28, 0.2)), np.array((0.88, 0.93, 0.85))
    return picture_of(low * (0.5 + ground)[..., None] * 1.2 + (high - low) * np.clip(vein, 0, 1)[..., None])


def leaves() -> Tensor:
    """Autumn leaves on the ground, in all directions, one on the other."""
    random = np.random.default_rng(6)
    rgb = np.ones((SIDE, SIDE, 3)) * (0.16, 0.12, 0.08)
    palette = [(0.75, 0.3, 0.1), (0.85, 0.6, 0.15), (0.5, 0.5, 0.15), (0.55, 0.18, 0.12), (0.35, 0.22, 0.12)]
    for colour in colours(random, palette, 420):
        y, x, angle, length = *random.random(2) * SIDE, random.uniform(0, TAU), random.uniform(9, 15)
        stroked(rgb, y + 1.5, x + 1.5, angle, length, 0.45 * length, (0.05, 0.04, 0.03), 0.6)
        stroked(rgb, y, x, angle, length, 0.4 * length, colour, 1)
        stroked(rgb, y, x, angle, length, 0.9, colour * 0.6, 0.8)
    return picture_of(rgb)


def blobs() -> Tensor:
    """scikit-image's random islands, white on black."""
    from skimage.data import binary_blobs

    land = binary_blobs(SIDE, blob_size_fraction=0.08, volume_fraction=0.4, rng=1)
    return torch.from_numpy(land).float().expand(3, -1, -1).contiguous()


TEXTURES: dict[str, Callable[[], Tensor]] = {
    "coins": lambda: load_image("skimage:coins"),
    "stars": lambda: crop(load_image("skimage:hubble_deep_field"), 100, 100, 384, 384),
    "page": lambda: crop(load_image("skimage:page"), 40, 0, 150, 384),
    "blobs": blobs,
    "petals": lambda: crop(sklearn_picture("flower"), 100, 230, 200, 200),
    "foliage": lambda: crop(sklearn_picture("china"), 312, 385, 115, 255),
    "circles": circles,
    "weave": weave,
    "scales": scales,
    "cobbles": cobbles,
    "marble": marble,
    "leaves": leaves,
}


def brush() -> Tensor:
    """Thick bent strokes that follow a swirl, blue and yellow: a night sky in oil."""
    random = np.random.default_rng(11)
    flow, tone = 1.3 * noise(random, 150), noise(random, 120)
    rgb = np.ones((SIDE, SIDE, 3)) * (0.1, 0.15, 0.35)
    blues = [(0.1, 0.2, 0.5), (0.2, 0.4, 0.75), (0.5, 0.7, 0.85)]
    yellows = [(0.95, 0.8, 0.3), (0.98, 0.92, 0.65), (0.85, 0.6, 0.2)]
    for _ in range(900):
        y, x = random.random(2) * SIDE
        palette = yellows if tone[int(y), int(x)] > 0.7 else blues
        colour, bend = colours(random, palette, 1, 0.04)[0], random.uniform(-0.02, 0.02)
        angle = flow[int(y), int(x)] + random.normal(0, 0.1)
        stroked(rgb, y, x, angle, 13, 2.6, colour, 0.9, bend)
        stroked(rgb, y - 1, x, angle, 11, 0.8, np.minimum(colour * 1.25, 1), 0.6, bend)
    return picture_of(rgb)


def glass() -> Tensor:
    """Stained glass: saturated panes in black leads."""
    random = np.random.default_rng(12)
    cell, gap = voronoi(random, 90)
    palette = [(0.8, 0.1, 0.12), (0.1, 0.25, 0.7), (0.95, 0.75, 0.15), (0.1, 0.5, 0.3), (0.5, 0.15, 0.5)]
    pane = colours(random, palette, 90)[cell] * (0.95 + 0.1 * noise(random, 24))[..., None]
    return picture_of(pane * np.clip((gap - 2.5) / 1.5, 0, 1)[..., None])


def etching() -> Tensor:
    """Ink lines in two directions on cream, thicker where it is dark."""
    random = np.random.default_rng(13)
    y, x = grid()
    dark, wobble = 0.5 + 0.28 * noise(random, 90), 1.5 * noise(random, 60)
    first = np.abs(((x + y + wobble) * 32 / SIDE) % 1 - 0.5) * 2
    second = np.abs(((x - y + wobble) * 32 / SIDE) % 1 - 0.5) * 2
    ink = np.maximum(np.clip((dark - first) * 5, 0, 1), np.clip((dark - 0.35 - second) * 5, 0, 1))
    paper = np.array((0.96, 0.92, 0.82)) * (1 + 0.02 * noise(random, 3))[..., None]
    return picture_of(paper + ink[..., None] * (np.array((0.12, 0.1, 0.14)) - paper))


def points() -> Tensor:
    """Dots of pure colours side by side: orange and violet on white, as pointillists laid them."""
    random = np.random.default_rng(14)
    tone = noise(random, 120)
    rgb = np.ones((SIDE, SIDE, 3)) * (0.97, 0.95, 0.9)
    warm, cold = [(0.95, 0.5, 0.1), (0.98, 0.75, 0.2), (0.9, 0.25, 0.2)], [(0.35, 0.2, 0.6), (0.15, 0.35, 0.75)]
    for _ in range(2200):
        y, x = random.random(2) * SIDE
        palette = warm if tone[int(y), int(x)] + 0.6 * random.standard_normal() > 0 else cold
        stroked(rgb, y, x, 0, 3.4, 3.4, colours(random, palette, 1)[0], 0.95)
    return picture_of(rgb)


STYLES: dict[str, Callable[[], Tensor]] = {"brush": brush, "glass": glass, "etching": etching, "points": points}
# The pictures that a style is learned on are those of today's study of styles; none of the photographs is among them.
CONTENT = ("skimage:astronaut", "skimage:chelsea", "skimage:coffee", "skimage:rocket")
PHOTOGRAPHS: dict[str, Callable[[], Tensor]] = {
    "china": lambda: sklearn_picture("china"),
    "flower": lambda: sklearn_picture("flower"),
    "camera": lambda: load_image("skimage:camera"),
    "moon": lambda: load_image("skimage:moon"),
}
