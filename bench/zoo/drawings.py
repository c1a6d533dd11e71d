"""Pictures drawn for the zoo, each a torus of SIDE x SIDE pixels, [3, SIDE, SIDE] in [0, 1]."""

import numpy as np
from torch import Tensor

from bench.held_set.textures import SIDE, TAU, colours, grid, noise, picture_of, stroked, voronoi


def mixed(share: np.ndarray, low: tuple, high: tuple) -> np.ndarray:
    """Colours between two, [SIDE, SIDE, 3]; share 0 is low, 1 is high, and it is cut to that."""
    low, high = np.array(low), np.array(high)
    return low + (high - low) * np.clip(share, 0, 1)[..., None]


def stretched(random: np.random.Generator, across: float, along: float) -> np.ndarray:
    """Noise on the torus, its waves `across` pixels wide and some `along` pixels high, mean 0 and variance 1."""
    rows, columns = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None]
    band = np.exp(-0.5 * ((np.abs(columns) * across - 1) / 0.4) ** 2 - 0.5 * (rows * along) ** 2)
    field = np.fft.ifft2(np.fft.fft2(random.standard_normal((SIDE, SIDE))) * band).real
    return field / field.std()


def shaded(height: np.ndarray, strength: float) -> np.ndarray:
    """Light from the upper left on a surface: about 0, brighter above."""
    down = np.roll(height, -1, 0) - np.roll(height, 1, 0)
    right = np.roll(height, -1, 1) - np.roll(height, 1, 1)
    return strength * (down + right) / 2


def bark() -> Tensor:
    """The bark of an old tree: upright plates with dark cracks."""
    random = np.random.default_rng(21)
    plates = stretched(random, 22, 70) + 0.5 * stretched(random, 11, 26)
    height = np.tanh(2.2 * np.abs(plates) - 0.7) + 0.12 * stretched(random, 5, 14)
    tone = 0.45 + 0.33 * height + shaded(height, 0.5) + 0.05 * noise(random, 3)
    colour = mixed(tone, (0.09, 0.06, 0.05), (0.72, 0.6, 0.47))
    moss = np.clip(noise(random, 70) - 1.1, 0, 1)[..., None] * 0.6
    return picture_of(colour * (1 - moss) + moss * mixed(tone, (0.1, 0.15, 0.05), (0.5, 0.62, 0.3)))


def wood() -> Tensor:
    """A plank of pine: long grain that bends, with fine pores."""
    random = np.random.default_rng(22)
    _, x = grid()
    bend = 9 * noise(random, 150, 0.4) + 2.5 * stretched(random, 60, 160)
    rings = 0.5 + 0.5 * np.sin(TAU * (x + bend) * 10 / SIDE)
    tone = 0.35 + 0.5 * rings**1.6 + 0.06 * stretched(random, 4, 60) + 0.03 * noise(random, 3)
    return picture_of(mixed(tone, (0.47, 0.26, 0.12), (0.93, 0.74, 0.48)))


def water() -> Tensor:
    """The floor of a pool in the sun: a net of light on turquoise."""
    random = np.random.default_rng(23)
    y, x = grid()
    warp_y, warp_x = 6 * noise(random, 60), 6 * noise(random, 60)
    _, gap = voronoi(random, 70)
    rows, columns = ((y + warp_y) % SIDE).astype(int), ((x + warp_x) % SIDE).astype(int)
    gap = gap[rows, columns]
    light = np.exp(-gap / 2.2) + 0.35 * np.exp(-gap / 9) + 0.06 * noise(random, 40)
    return picture_of(mixed(light * 1.15, (0.03, 0.42, 0.55), (0.9, 1.0, 0.96)))


def zebra() -> Tensor:
    """A zebra's coat: black stripes that fork."""
    random = np.random.default_rng(24)
    stripes = stretched(random, 30, 40)
    ink = 1 / (1 + np.exp(9 * (stripes + 0.1)))
    fur = 0.05 * stretched(random, 3, 9)
    return picture_of(mixed(ink + fur, (0.95, 0.92, 0.86), (0.08, 0.06, 0.06)))


def moss() -> Tensor:
    """A cushion of moss from above: little stars of green leaves."""
    random = np.random.default_rng(25)
    rgb = np.ones((SIDE, SIDE, 3)) * (0.05, 0.09, 0.03)
    for shade in np.linspace(0.35, 1, 800):
        y, x = random.random(2) * SIDE
        turn, length = random.uniform(0, TAU), random.uniform(6, 10)
        green = np.clip(np.array((0.45, 0.72, 0.18)) * shade + 0.05 * random.standard_normal(3), 0, 1)
        for leaf in range(6):
            angle = turn + leaf * TAU / 6
            reach = 0.5 * length
            stroked(rgb, y + reach * np.sin(angle), x + reach * np.cos(angle), angle, reach, 1.5, green, 0.95)
        stroked(rgb, y, x, 0, 1.6, 1.6, np.minimum(green * 1.4, 1), 0.9)
    return picture_of(rgb)


def lava() -> Tensor:
    """Cooled plates of lava with glowing seams."""
    random = np.random.default_rng(26)
    y, x = grid()
    cell, gap = voronoi(random, 60)
    warp_y, warp_x = 5 * noise(random, 40), 5 * noise(random, 40)
    rows, columns = ((y + warp_y) % SIDE).astype(int), ((x + warp_x) % SIDE).astype(int)
    gap = gap[rows, columns]
    glow = np.exp(-gap / 2.5)[..., None]
    crust = 0.16 + 0.07 * noise(random, 14) + 0.04 * noise(random, 4) + shaded(np.clip(gap / 10, 0, 1), 0.35)
    hot = mixed(np.exp(-gap / 1.6), (0.85, 0.12, 0.02), (1.0, 0.85, 0.3))
    return picture_of(mixed(crust * 2, (0.04, 0.03, 0.04), (0.42, 0.36, 0.36)) * (1 - glow) + hot * glow)


def terrazzo() -> Tensor:
    """A floor of pale cement with chips of coloured stone."""
    random = np.random.default_rng(27)
    rgb = np.ones((SIDE, SIDE, 3)) * (0.93, 0.91, 0.87) * (1 + 0.012 * noise(random, 3))[..., None]
    palette = [(0.78, 0.42, 0.34), (0.23, 0.38, 0.36), (0.88, 0.68, 0.4), (0.35, 0.35, 0.42), (0.62, 0.72, 0.7)]
    for colour in colours(random, palette, 260, 0.04):
        y, x, size = *random.random(2) * SIDE, random.uniform(3, 9)
        angle = random.uniform(0, TAU)
        stroked(rgb, y, x, angle, size, size * random.uniform(0.45, 0.9), colour, 1)
    return picture_of(rgb)


def giraffe() -> Tensor:
    """A giraffe's coat: brown patches, darker in their middle, with cream between them."""
    random = np.random.default_rng(28)
    y, x = grid()
    cell, gap = voronoi(random, 75)
    warp_y, warp_x = 2.5 * noise(random, 30), 2.5 * noise(random, 30)
    rows, columns = ((y + warp_y) % SIDE).astype(int), ((x + warp_x) % SIDE).astype(int)
    gap, cell = gap[rows, columns], cell[rows, columns]
    patch = colours(random, [(0.62, 0.36, 0.16), (0.54, 0.29, 0.12), (0.68, 0.42, 0.2)], 75, 0.02)[cell]
    patch = patch * (1.12 - 0.025 * np.clip(gap, 0, 16) + 0.05 * stretched(random, 3, 8))[..., None]
    edge = np.clip((gap - 3.5) / 1.5, 0, 1)[..., None]
    return picture_of((0.95, 0.87, 0.7) + edge * (patch - (0.95, 0.87, 0.7)))


def coral() -> Tensor:
    """Brain coral: ridges of salmon that wind through dark violet grooves."""
    random = np.random.default_rng(29)
    folds = noise(random, 26, 0.25)
    height = np.tanh(1.6 * folds)
    tone = 0.5 + 0.45 * height + shaded(height, 0.45) + 0.04 * noise(random, 4)
    groove = mixed(tone * 1.6, (0.16, 0.05, 0.22), (0.75, 0.25, 0.32))
    return picture_of(groove + np.clip(tone - 0.5, 0, 1)[..., None] * ((1.35, 1.25, 1.0) - groove))
