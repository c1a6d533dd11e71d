"""Draws materials, coats of animals, weather and plants for `drawings`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.small_clip.batch import TAU, Batch, bars, nearest, shades, spread_points, within


def _scale(batch: Batch, small: tuple, large: tuple, middle: tuple) -> Tensor:
    return batch.between("scale", {"small": small, "large": large, None: middle})


def _each(batch: Batch, draw: Callable[[Batch], Tensor]) -> Tensor:
    """Draws one after the other what has as many parts as its scale wants."""
    return torch.cat([draw(batch.alone(index)) for index in range(batch.count)])


def _mixed(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """Colours [N, 3, 1, 1] (or pictures), the second where `share` [N, size, size] is 1."""
    return low + (high - low) * share[:, None].clamp(0, 1)


def _hues(hue: Tensor, saturation: float = 0.85, value: float = 0.95) -> Tensor:
    """[N, H, W] in turns -> [N, 3, H, W]"""
    k = (torch.tensor([5.0, 3.0, 1.0]).reshape(1, 3, 1, 1) + hue[:, None] * 6) % 6
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def _wood(batch: Batch) -> Tensor:
    """Grain along the planks, bent around a knot, and boards with dark joints."""
    along, across = batch.rotated(spread=3.0)
    knot = torch.exp(-((along - batch.uniform(-20, 20)) ** 2 / 160 + (across - batch.uniform(-16, 16)) ** 2 / 60))
    bent = across + 3 * batch.bandpass(batch.uniform(40, 60), 0.6) + 9 * knot
    grain = 0.5 + 0.32 * torch.sin(TAU * bent / batch.uniform(4.5, 8)) + 0.12 * torch.sin(TAU * bent / 2.7)
    width = batch.uniform(17, 27)
    offset = (across / width + batch.uniform(0, 1)) % 1.0
    joint = within(0.7 - torch.minimum(offset, 1 - offset) * width)
    front = batch.colour("front")
    board = _mixed(front, batch.colour("back"), grain)
    return _mixed(board, 0.3 * front, joint)


def _marble(batch: Batch) -> Tensor:
    field = batch.bandpass(batch.uniform(26, 44), 0.5) + 0.3 * batch.bandpass(batch.uniform(9, 14), 0.5)
    fine = batch.bandpass(batch.uniform(16, 22), 0.5)
    veins = torch.exp(-((field / 0.16) ** 2)) + 0.5 * torch.exp(-((fine / 0.1) ** 2))
    return batch.painted(veins + 0.12 * batch.bandpass(batch.uniform(24, 40), 0.6))


def _cobbles(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        spacing = float(_scale(batch, (7, 9), (18, 24), (10.5, 15)))
        distance, index = nearest(batch, spacing, 0.3)
        edge = (distance[:, 1] - distance[:, 0]) / 2
        round_ = (edge / (spacing * 0.28)).clamp(0, 1).sqrt()
        stone = batch.colour("front") * (shades(batch, index[:, 0], 0.65, 1.1) * (0.5 + 0.5 * round_))[:, None]
        return _mixed(batch.colour("back"), stone, within(edge - spacing * 0.07))

    return _each(batch, one)


def _cracks(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        spacing = float(_scale(batch, (9, 12), (24, 32), (14, 20)))
        distance, index = nearest(batch, spacing)
        edge = (distance[:, 1] - distance[:, 0]) / 2 + 0.5 * batch.bandpass(batch.uniform(6, 9))
        plate = batch.colour("back") * shades(batch, index[:, 0], 0.85, 1.1)[:, None]
        return _mixed(plate, batch.colour("front"), within(0.9 - edge))

    return _each(batch, one)


def _stained(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        spacing = float(_scale(batch, (8, 10), (19, 26), (11, 16)))
        distance, index = nearest(batch, spacing)
        edge = (distance[:, 1] - distance[:, 0]) / 2
        glass = _hues(shades(batch, index[:, 0]), 0.8) * shades(batch, index[:, 0], 0.6, 1.0)[:, None]
        return _mixed(glass, torch.tensor(0.06), within(0.8 - edge))

    return _each(batch, one)


def _ice(batch: Batch) -> Tensor:
    """Facets, each with a slope of its own, and bright edges."""

    def one(batch: Batch) -> Tensor:
        distance, index = nearest(batch, float(batch.uniform(12, 20)))
        angle = shades(batch, index[:, 0], 0, TAU)
        slope = (batch.x * angle.cos() + batch.y * angle.sin()) / 9
        facet = 0.5 + 0.35 * torch.sin(slope + shades(batch, index[:, 0], 0, TAU))
        edge = (distance[:, 1] - distance[:, 0]) / 2
        return _mixed(batch.painted(facet), torch.tensor(1.0), 0.8 * within(0.4 - edge))

    return _each(batch, one)


def _tiles(batch: Batch) -> Tensor:
    along, across = batch.rotated(spread=3.0)
    period = _scale(batch, (8, 10), (20, 28), (12, 16))
    u, v = (along / period + batch.uniform(0, 1)), (across / period + batch.uniform(0, 1))
    shade = torch.sin(torch.floor(u) * 12.9898 + torch.floor(v) * 78.233 + batch.uniform(0, TAU))
    edge = torch.minimum(*(torch.minimum(w % 1, 1 - w % 1) * period for w in (u, v)))
    front = batch.colour("front") * (1 + 0.06 * shade)[:, None]
    return _mixed(batch.colour("back"), front, within(edge - 0.6))


def _weave(batch: Batch) -> Tensor:
    """Strips that go over and under each other."""
    along, across = batch.rotated(spread=4.0)
    period = _scale(batch, (6, 7.5), (14, 19), (8.5, 12))
    u, v = along / period, across / period
    over = (torch.floor(u) + torch.floor(v)) % 2
    a, b = u % 1, v % 1
    inside = torch.where(over > 0.5, b, a)
    length = torch.where(over > 0.5, a, b)
    strip = within((0.42 - (inside - 0.5).abs()) * period)
    light = 0.62 + 0.4 * torch.sin(math.pi * length)
    return _mixed(batch.colour("back"), batch.colour("front") * light[:, None], strip)


def _knit(batch: Batch) -> Tensor:
    """Columns of V's."""
    along, across = batch.rotated(spread=3.0)
    period = _scale(batch, (8, 9.5), (17, 22), (11, 14))
    u = (along / period) % 1 - 0.5
    v = across / (0.55 * period) - 1.5 * u.abs()
    arm = 0.5 + 0.8 * torch.cos(TAU * v)
    column = (1.5 - 3.2 * (u.abs() - 0.25).abs() * 2).clamp(0, 1)
    return batch.painted(0.1 + 0.9 * arm * column)


def _plaid(batch: Batch) -> Tensor:
    along, across = batch.rotated(spread=3.0)
    period = _scale(batch, (10, 13), (26, 36), (15, 21))
    wide, thin = batch.uniform(0.4, 0.5), batch.uniform(0.07, 0.1)

    def bands(w: Tensor) -> Tensor:
        w = (w / period) % 1
        return 0.5 * within((wide / 2 - (w - 0.4).abs()) * period) + 0.35 * within(
            (thin / 2 - (w - 0.85).abs()) * period
        )

    return batch.painted(bands(along) + bands(across))


def _herringbone(batch: Batch) -> Tensor:
    """Slanted planks in columns that lean to either side."""
    along, across = batch.rotated(spread=3.0)
    period = _scale(batch, (9, 11), (20, 27), (13, 17))
    column = torch.floor(along / period)
    u = along / period - column
    lean = torch.where(column % 2 == 0, u, 1 - u) * period
    row = (across + lean) / (period * 0.42)
    v = row % 1
    edge = torch.minimum(torch.minimum(v, 1 - v) * period * 0.3, torch.minimum(u, 1 - u) * period)
    shade = torch.sin(torch.floor(row) * 12.9898 + column * 78.233 + batch.uniform(0, TAU))
    front = batch.colour("front") * (1 + 0.14 * shade)[:, None]
    return _mixed(batch.colour("back"), front, within(edge - 0.55))


def _houndstooth(batch: Batch) -> Tensor:
    along, across = batch.rotated(spread=2.0)
    thread = batch.uniform(1.5, 3.0)
    i, j = torch.floor(along / thread), torch.floor(across / thread)
    front = torch.where((i + j) % 4 < 2, (i % 8 < 4).float(), (j % 8 < 4).float())
    return batch.painted(front)


def _denim(batch: Batch) -> Tensor:
    twill = 0.5 + 0.5 * torch.sin(TAU * (batch.x + batch.y) / batch.uniform(4, 5.5))
    threads = 0.5 + 0.25 * batch.bandpass(batch.uniform(3, 4)) + 0.2 * batch.bandpass(batch.uniform(20, 40), 0.8)
    return batch.painted(0.95 - 0.55 * twill * threads)


def _sand(batch: Batch) -> Tensor:
    """Ripples of the wind, lit from one side, and grains."""
    _, across = batch.rotated(spread=25.0)
    bent = across + 5 * batch.bandpass(batch.uniform(34, 50), 0.5)
    ripple = 0.5 + 0.5 * torch.sin(TAU * bent / batch.uniform(8, 14))
    return batch.painted(0.45 + 0.45 * ripple + 0.1 * batch.noise())


def _granite(batch: Batch) -> Tensor:
    """Grains of the front colour, and lighter and darker ones, on the back colour."""
    period = batch.uniform(4.5, 7)
    back = batch.colour("back") * (1 + 0.16 * batch.bandpass(period, 0.5))[:, None]
    lighter = _mixed(back, back * 0.6 + 0.4, 0.8 * within((batch.bandpass(period, 0.4) - 1.1) * 2))
    return _mixed(lighter, batch.colour("front"), within((batch.bandpass(period, 0.4) - 0.75) * 2))


def _rust(batch: Batch) -> Tensor:
    field = sum(
        weight * batch.bandpass(batch.uniform(low, 1.3 * low), 0.6) for weight, low in ((0.8, 32), (0.5, 13), (0.45, 6))
    )
    spots = _mixed(batch.colour("back"), batch.colour("front"), within(field * 3))
    return spots * (1 + 0.1 * batch.bandpass(batch.uniform(3, 5), 0.5))[:, None]


def _camouflage(batch: Batch) -> Tensor:
    period = batch.uniform(16, 24)
    first = batch.painted(within((batch.bandpass(period, 0.4) - 0.1) * 4))
    dark = 0.35 * batch.colour("front")
    return _mixed(first, dark, within((batch.bandpass(period, 0.4) - 0.75) * 4))


def _circles(batch: Batch, spacing: float, least: float, most: float) -> tuple[Tensor, Tensor, Tensor]:
    """Discs of several sizes, the nearest of each pixel: its radius, and the pixel's place in it. [1, size, size]"""
    x, y = spread_points(batch, spacing, 0.5)
    radius = spacing * (least + (most - least) * torch.rand(x.shape, generator=batch.generator))
    dx, dy = torch.broadcast_tensors(batch.x[:, None] - x[:, :, None, None], batch.y[:, None] - y[:, :, None, None])
    inside = radius[:, :, None, None] - torch.hypot(dx, dy)
    index = inside.argmax(1, keepdim=True)
    radius = radius.gather(1, index.flatten(1)).reshape(index.shape)
    return radius[:, 0], dx.gather(1, index)[:, 0], dy.gather(1, index)[:, 0]


def _bubbles(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        radius, dx, dy = _circles(batch, float(batch.uniform(11, 17)), 0.2, 0.62)
        distance = torch.hypot(dx, dy)
        rim = within(1.0 - (distance - radius + 1).abs())
        glint = within(radius * 0.22 - torch.hypot(dx + radius * 0.4, dy + radius * 0.4))
        body = 0.22 * within(radius - distance)
        return batch.painted(torch.maximum(torch.maximum(rim, glint), body))

    return _each(batch, one)


def _holes(batch: Batch) -> Tensor:
    """Dark holes, whose lower edge is lit."""

    def one(batch: Batch) -> Tensor:
        radius, dx, dy = _circles(batch, float(batch.uniform(12, 18)), 0.15, 0.5)
        hole = within(radius - torch.hypot(dx, dy))
        lit = within(radius - torch.hypot(dx, dy - 1.2))
        return _mixed(_mixed(batch.colour("back"), torch.tensor(1.0), 0.5 * lit), batch.colour("front"), hole)

    return _each(batch, one)


def _confetti(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        spacing = float(batch.uniform(6.5, 9))
        distance, index = nearest(batch, spacing, 0.5, kept=1)
        paper = _hues(shades(batch, index[:, 0]))
        back = float(torch.rand((), generator=batch.generator) < 0.6)
        return _mixed(torch.full((1, 3, 1, 1), 0.05 + 0.93 * back), paper, within(spacing * 0.34 - distance[:, 0]))

    return _each(batch, one)


def _net(batch: Batch) -> Tensor:
    """Thin diagonal lines that cross."""
    period = _scale(batch, (6, 8), (15, 22), (9, 13))
    stretch = batch.uniform(0.8, 1.25)
    a, b = batch.x * 0.707 + batch.y * 0.707 * stretch, batch.x * 0.707 - batch.y * 0.707 * stretch
    duty = batch.uniform(0.12, 0.2)
    return batch.painted(torch.maximum(bars(a, period, batch, duty), bars(b, period, batch, duty)))


def _diamonds(batch: Batch) -> Tensor:
    period = 2 * _scale(batch, (5, 6.5), (13, 18), (8, 11))
    half = torch.full((batch.count, 1, 1), 0.5)
    x, y = batch.x * batch.uniform(1.1, 1.6), batch.y
    a, b = bars(x + y, period * 1.2, batch, half), bars(x - y, period * 1.2, batch, half)
    return batch.painted(a + b - 2 * a * b)


def _triangles(batch: Batch) -> Tensor:
    """Rows of triangles, tip up in one colour and tip down in the other."""
    side = _scale(batch, (7, 9), (19, 27), (11, 15))
    height = side * batch.uniform(0.8, 1.0)
    row = batch.y / height + batch.uniform(0, 1)
    v = row % 1
    u = (batch.x / side + 0.5 * (torch.floor(row) % 2) + batch.uniform(0, 1)) % 1
    return batch.painted(within((v / 2 - (u - 0.5).abs()) * side * 0.9))


def _spiral(batch: Batch) -> Tensor:
    dx, dy = batch.x - batch.uniform(-9, 9), batch.y - batch.uniform(-9, 9)
    period = batch.between("scale", {"thin": (6, 8.5), "thick": (17, 24), None: (10, 14)})
    hand = (batch.uniform(0, 1) > 0.5) * 2.0 - 1.0
    return batch.painted(bars(torch.hypot(dx, dy) + hand * period * torch.atan2(dy, dx) / TAU, period, batch))


def _sunburst(batch: Batch) -> Tensor:
    dx, dy = batch.x - batch.uniform(-12, 12), batch.y - batch.uniform(-12, 12)
    count = batch.uniform(7, 15).round()
    wave = torch.sin(count * torch.atan2(dy, dx) + batch.uniform(0, TAU))
    return batch.painted(within(wave * torch.hypot(dx, dy) / count))


def _gradient(batch: Batch) -> Tensor:
    down = 0.5 + batch.y / batch.size * batch.uniform(0.8, 1.4) + batch.uniform(-0.15, 0.15)
    flip = batch.uniform(0, 1) > 0.5
    share = torch.where(flip, down, 1 - down).expand(-1, -1, batch.size)
    return batch.painted(share + 0.03 * batch.bandpass(batch.uniform(30, 60), 0.8))


def _rainbow(batch: Batch) -> Tensor:
    """Bands of all hues, straight or as an arc."""
    angle = batch.uniform(0, TAU)
    straight = batch.x * angle.cos() + batch.y * angle.sin() + 0 * batch.y
    arc = torch.hypot(batch.x - batch.uniform(-10, 10), batch.y - batch.uniform(28, 40))
    place = torch.where(batch.uniform(0, 1) > 0.5, straight, arc)
    return _hues((place / batch.uniform(30, 60) + batch.uniform(0, 1)) % 1, 0.9)


def _tiger(batch: Batch) -> Tensor:
    """Stripes that taper and end."""
    angle = math.pi / 2 + batch.uniform(-0.5, 0.5)
    field = batch.bandpass(batch.uniform(11, 17), 0.25, angle)
    length = batch.bandpass(batch.uniform(26, 40), 0.5)
    stripe = within((field - 0.35 - 0.35 * length) * 2.6)
    coat = batch.colour("back") * (1 + 0.08 * batch.bandpass(batch.uniform(30, 50), 0.6))[:, None]
    return _mixed(coat, batch.colour("front"), stripe)


def _spotted(batch: Batch, middle: tuple, jitter: float, least: float, most: float, rough: float) -> Tensor:
    """Discs of uneven outline."""

    def one(batch: Batch) -> Tensor:
        spacing = float(_scale(batch, (0.68 * middle[0], 0.8 * middle[0]), (1.5 * middle[1], 2 * middle[1]), middle))
        distance, index = nearest(batch, spacing, jitter, kept=1)
        radius = spacing * shades(batch, index[:, 0], least, most)
        return batch.painted(within(radius - distance[:, 0] + rough * batch.bandpass(batch.uniform(5, 8))))

    return _each(batch, one)


def _cheetah(batch: Batch) -> Tensor:
    return _spotted(batch, (8, 11), 0.32, 0.22, 0.34, 0.6)


def _ladybird(batch: Batch) -> Tensor:
    return _spotted(batch, (14, 19), 0.1, 0.28, 0.34, 0.2)


def _dalmatian(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        spacing = float(batch.uniform(11, 16))
        distance, index = nearest(batch, spacing, 0.5, kept=1)
        radius = spacing * shades(batch, index[:, 0], 0.08, 0.42)
        return batch.painted(within(radius - distance[:, 0] + 0.1 * spacing * batch.bandpass(batch.uniform(6, 9))))

    return _each(batch, one)


def _giraffe(batch: Batch) -> Tensor:
    def one(batch: Batch) -> Tensor:
        spacing = float(_scale(batch, (10, 12), (24, 30), (14, 20)))
        distance, index = nearest(batch, spacing, 0.35)
        edge = (distance[:, 1] - distance[:, 0]) / 2 + 0.4 * batch.bandpass(batch.uniform(6, 9))
        patch = batch.colour("front") * shades(batch, index[:, 0], 0.8, 1.15)[:, None]
        return _mixed(batch.colour("back"), patch, within(edge - spacing * 0.085))

    return _each(batch, one)


def _cow(batch: Batch) -> Tensor:
    field = batch.bandpass(batch.uniform(28, 40), 0.35) + 0.16 * batch.bandpass(batch.uniform(9, 13))
    return batch.painted(within((field - 0.35) * 5))


def _snake(batch: Batch) -> Tensor:
    """A chain of diamonds in a row, with rims, on small scales."""
    period = _scale(batch, (10, 13), (26, 34), (16, 22))
    u, v = (batch.x / period + batch.uniform(0, 1)) % 1 - 0.5, (batch.y / period + batch.uniform(0, 1)) % 1 - 0.5
    diamond = 0.5 - u.abs() - v.abs()
    rim = within((0.11 - (diamond - 0.1).abs()) * period)
    scale = 0.85 + 0.15 * torch.sin(TAU * (batch.x + batch.y) / 4) * torch.sin(TAU * (batch.x - batch.y) / 4)
    body = _mixed(batch.colour("back"), batch.colour("front"), within((diamond - 0.1) * period))
    return _mixed(body, 0.3 * batch.colour("back"), 0.9 * rim) * scale[:, None]


def _overlapping(batch: Batch, width: Tensor, height: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of tongues, each over the row above: across and down within the topmost one (0 to 1), and which it is."""
    best = None
    for layer in (0, 1, 2):
        row = torch.floor(batch.y / height) - layer
        down = batch.y / height - row  # layer to layer + 1, below the row's upper edge
        u = (batch.x / width + 0.5 * (row % 2)) % 1 - 0.5
        inside = (down < 0.9) | (torch.hypot(u * 2, (down - 0.9) / 1.1) < 1)
        number = row * 7 + torch.floor(batch.x / width + 0.5 * (row % 2)) * 3
        if best is None:
            best = [u, down, number]
        else:
            best = [
                torch.where(covered, new, old)
                for covered, new, old in zip([inside] * 3, (u, down, number), best, strict=True)
            ]
    return best[0], best[1] / 2, best[2]


def _scales(batch: Batch) -> Tensor:
    width = _scale(batch, (7, 9), (18, 24), (11, 15))
    u, down, number = _overlapping(batch, width, width * 0.55)
    rim = torch.hypot(u * 2, (2 * down - 0.9).clamp(min=0) / 1.1)
    shade = 1 + 0.12 * torch.sin(number * 12.9898)
    front = batch.colour("front") * ((0.55 + 0.45 * down.clamp(0, 1)) * shade)[:, None]
    return _mixed(front, batch.colour("back"), within((rim - 0.84) * width / 3))


def _feathers(batch: Batch) -> Tensor:
    width = _scale(batch, (8, 10), (18, 24), (12, 15))
    u, down, number = _overlapping(batch, width, width * 1.1)
    quill = within(0.5 - u.abs() * width)
    barbs = 0.75 + 0.25 * torch.sin(TAU * (u.abs() * width * 0.7 - down * width * 1.6) / 3.2)
    rim = torch.hypot(u * 2, (2 * down - 0.9).clamp(min=0) / 1.1)
    shade = barbs * (1 - 0.35 * (rim > 0.85).float())
    front = batch.colour("front") * (shade * (1 + 0.1 * torch.sin(number * 78.2)))[:, None]
    return _mixed(front, batch.colour("back"), torch.maximum(quill, within((rim - 0.9) * width / 2)))


def _rain(batch: Batch) -> Tensor:
    """Thin slanted streaks."""
    slant = batch.uniform(-0.35, 0.35)
    across = batch.x + slant * batch.y
    period = batch.between("density", {"dense": (3.6, 4.4), "sparse": (8, 10), None: (5, 7)})
    column = torch.floor(across / period)
    offset = torch.frac(torch.sin(column * 12.9898 + batch.uniform(0, TAU)) * 43758.5).abs()
    length = batch.uniform(18, 28)
    down = (batch.y / length + offset) % 1
    streak = within((0.2 - (down - 0.5).abs()) * length) * within(0.6 - ((across / period) % 1 - 0.5).abs() * period)
    cloud = batch.colour("back") * (1 + 0.08 * batch.bandpass(batch.uniform(30, 50), 0.7))[:, None]
    return _mixed(cloud, batch.colour("front"), 0.9 * streak)


def _snow(batch: Batch) -> Tensor:
    """Soft flakes of several sizes."""

    def one(batch: Batch) -> Tensor:
        spacing = float(batch.between("density", {"dense": (5, 6.5), "sparse": (13, 17), None: (8, 11)}))
        distance, index = nearest(batch, spacing, 0.5, kept=1)
        flake = ((shades(batch, index[:, 0], 0.8, 2.6) - distance[:, 0]) * 0.7 + 0.5).clamp(0, 1)
        return batch.painted(flake + 0.08 * batch.bandpass(batch.uniform(30, 50), 0.7))

    return _each(batch, one)


def _night(batch: Batch) -> Tensor:
    """Points of light, few of them bright."""

    def one(batch: Batch) -> Tensor:
        distance, index = nearest(batch, float(batch.uniform(7, 10)), 0.5, kept=1)
        size = 0.35 + 1.3 * shades(batch, index[:, 0]) ** 5
        star = torch.exp(-((distance[:, 0] / size) ** 2)) * shades(batch, index[:, 0], 0.3, 1.2)
        return batch.painted(star + 0.04 * batch.bandpass(batch.uniform(30, 50), 0.7))

    return _each(batch, one)


def _lightning(batch: Batch) -> Tensor:
    """Jagged bolts with a glow, from above to below."""
    total = torch.zeros(batch.count, batch.size, batch.size)
    for strength in (1.0, 0.75):
        knots = torch.randn(batch.count, 1, 12, generator=batch.generator).cumsum(2) * 4
        path = F.interpolate(knots, size=batch.size, mode="linear", align_corners=True)[:, 0, :, None]
        path = path - path.mean(1, keepdim=True) + batch.uniform(-22, 22) + batch.uniform(-0.4, 0.4) * batch.y
        distance = (batch.x - path).abs()
        total = torch.maximum(total, strength * (within(1.1 - distance * 0.8) + 0.35 * torch.exp(-distance / 5)))
    return batch.painted(total + 0.06 * batch.bandpass(batch.uniform(20, 40), 0.8))


def _water(batch: Batch) -> Tensor:
    """Sunlight on the floor of a pool: a net of bright lines."""
    period = batch.uniform(13, 22)
    first, second = batch.bandpass(period, 0.35), batch.bandpass(period * 0.8, 0.35)
    net = torch.exp(-((first / 0.3) ** 2)) + torch.exp(-((second / 0.3) ** 2))
    return batch.painted(0.7 * net**1.5 + 0.05)


def _fire(batch: Batch) -> Tensor:
    """Tongues, high at the bottom."""
    stretched = batch.bandpass(batch.uniform(9, 14), 0.35, torch.full((batch.count, 1, 1), 0.0)) * 0.9
    stretched = stretched + 0.5 * batch.bandpass(batch.uniform(18, 26), 0.5)
    heat = batch.y / batch.size * batch.uniform(1.2, 2.2) + 0.45 * stretched + 0.45
    body = batch.painted(heat)
    light = batch.colour("front") * 0.45 + torch.tensor([0.55, 0.5, 0.2]).reshape(1, 3, 1, 1)
    return _mixed(body, light, (heat - 0.85) * 1.5)


def _grass(batch: Batch) -> Tensor:
    """Blades that stand close, lighter and darker."""
    lean = batch.uniform(-0.35, 0.35)
    blades = batch.bandpass(batch.uniform(4, 6), 0.35, lean) + 0.8 * batch.bandpass(batch.uniform(6, 9), 0.35, -lean)
    front = batch.colour("front") * (1.05 + 0.2 * batch.bandpass(batch.uniform(8, 12), 0.4, lean))[:, None]
    return _mixed(batch.colour("back") * 0.75, front, 0.55 + 0.4 * blades)


def _moss(batch: Batch) -> Tensor:
    """Small cushions, lit from above."""

    def one(batch: Batch) -> Tensor:
        spacing = float(batch.uniform(5.5, 8))
        distance, index = nearest(batch, spacing, 0.5)
        dome = (1 - (distance[:, 0] / spacing / 0.75) ** 2).clamp(0, 1) * shades(batch, index[:, 0], 0.55, 1.15)
        return batch.painted(dome + 0.1 * batch.noise() + 0.1 * batch.bandpass(batch.uniform(24, 40), 0.5))

    return _each(batch, one)


def _bark(batch: Batch) -> Tensor:
    """Ridges that run upwards, split and meet."""
    field = batch.bandpass(batch.uniform(9, 14), 0.35, batch.uniform(-0.12, 0.12))
    field = field + 0.35 * batch.bandpass(batch.uniform(5, 7), 0.4)
    ridge = 1 - torch.exp(-((field / 0.5) ** 2))
    front = batch.colour("front") * (0.8 + 0.3 * ridge + 0.08 * batch.bandpass(batch.uniform(4, 6)))[:, None]
    return _mixed(batch.colour("back"), front, ridge * 1.3)


SURFACE_DRAWERS: dict[str, Callable[[Batch], Tensor]] = {
    "wood": _wood,
    "marble": _marble,
    "cobbles": _cobbles,
    "cracks": _cracks,
    "stained": _stained,
    "ice": _ice,
    "tiles": _tiles,
    "weave": _weave,
    "knit": _knit,
    "plaid": _plaid,
    "herringbone": _herringbone,
    "houndstooth": _houndstooth,
    "denim": _denim,
    "sand": _sand,
    "granite": _granite,
    "rust": _rust,
    "camouflage": _camouflage,
    "bubbles": _bubbles,
    "holes": _holes,
    "confetti": _confetti,
    "net": _net,
    "diamonds": _diamonds,
    "triangles": _triangles,
    "spiral": _spiral,
    "sunburst": _sunburst,
    "gradient": _gradient,
    "rainbow": _rainbow,
    "tiger": _tiger,
    "cheetah": _cheetah,
    "giraffe": _giraffe,
    "cow": _cow,
    "dalmatian": _dalmatian,
    "ladybird": _ladybird,
    "snake": _snake,
    "scales": _scales,
    "feathers": _feathers,
    "rain": _rain,
    "snow": _snow,
    "night": _night,
    "lightning": _lightning,
    "water": _water,
    "fire": _fire,
    "grass": _grass,
    "moss": _moss,
    "bark": _bark,
}
