"""A texture put into an area of a picture, so that it looks as if it had been there."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.choices import BlendName
from nca_fast.media.images import load_straight, source_name
from nca_fast.media.linear_light import luminance, to_linear, to_srgb
from nca_fast.nca import NCA
from nca_fast.rendering.membrane import membrane
from nca_fast.rendering.render import render

MARGIN = 12  # cells that live around an area, so that none of it sees those that do not
_DARK = 0.02  # what JPEG makes of the black of a mask
_LIGHT = 0.08  # width of what counts as light and not as detail, of the side of a square as large as the area
_FAR, _WIDER = 0.15, 2.5  # two learned textures: 0.013 and 1.3 at most; after 20 iterations 0.09 and 3.2
_FLAT = 0.02  # spread of colours below which none is seen
_MOST_LIGHT = 4.0  # times as bright as the mean of the area


@dataclass(frozen=True, eq=False)
class Area:
    """Where a texture goes in a picture.

    Args:
        cover: How much of it there is at each pixel, [H, W] in [0, 1], not 0 everywhere.
    """

    cover: Tensor

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns that hold all of it, and one more on each side where the picture has one."""
        places = [self.cover.amax(axis).nonzero().flatten().tolist() for axis in (1, 0)]
        rows, columns = (slice(max(0, found[0] - 1), found[-1] + 2) for found in places)
        return rows, columns

    @property
    def pixels(self) -> float:
        """Counts the pixels that are covered."""
        return float(self.cover.sum())


def read_area(mask: str | Path | Tensor, height: int, width: int, soft: int = 0) -> Area:
    """Reads a mask: what is opaque where it is transparent anywhere, or what is white.

    Args:
        mask: File, skimage:NAME, or [H, W] in [0, 1].
        height, width: Of the picture that it belongs to, in pixels.
        soft: Width of its border, in pixels, half of which lies outside; 0 leaves the mask as it is.

    Raises:
        ValueError: It cannot be read, is of another size than the picture, or has no area.
    """
    if not isinstance(mask, Tensor):
        color, alpha = load_straight(mask)
        mask, named = color.mean(0) if alpha is None else alpha, repr(source_name(mask))
    else:
        named = "given"
    if mask.shape != (height, width):
        raise ValueError(
            f"mask must have the {height} x {width} pixels of the picture, but the one {named} has "
            f"{mask.shape[0]} x {mask.shape[1]}: scale it, or draw it on a copy of the picture."
        )
    cover = ((mask - _DARK) / (1 - 2 * _DARK)).clamp(0, 1)
    if not cover.any():
        raise ValueError(f"mask must be white, or opaque, where the texture goes, but the one {named} is so nowhere.")
    for _ in range(2 if soft else 0):
        cover = _mean_around(cover[None], soft // 2)[0]
    return Area(torch.where(cover < 1e-4, 0, cover))


def grown(
    nca: NCA,
    area: Area,
    zoom: float,
    steps: int,
    texture: str | None,
    seed: int,
    memory: str | None = None,
    progress: str | None = None,
    **how,
) -> Tensor:
    """Lets an automaton grow in the cells of an area, and nowhere else.

    Args:
        nca: Grows a texture.
        area: See there.
        zoom: Pixels along the side of a cell.
        steps: Updates of every cell.
        texture: As `CanvasConfig.texture`.
        seed: Fixes all randomness.
        memory: As `CanvasConfig.memory`.
        progress: As in `render`.
        how: backend, precision.

    Returns:
        The pixels of the area's box, [3, h, w] in [0, 1]; what they are outside of it means nothing.

    Raises:
        ValueError: The automaton does not grow textures, or has no room in memory.
    """
    if nca.start not in ("zeros", "noise") or nca.rule.alive_channel is not None:
        raise ValueError(
            f"the automaton must grow a texture, but this one starts from {nca.start}: nca-fast texture trains such."
        )
    cover = area.cover[area.box]
    height, width = cover.shape
    rows, columns = (math.ceil(side / zoom) for side in (height, width))
    cells = F.adaptive_max_pool2d(cover[None], (min(rows, height), min(columns, width)))
    cells = F.interpolate(cells[None], (rows, columns))[0, 0] > 0
    cells = F.pad(cells.float(), (MARGIN,) * 4)
    alive = F.max_pool2d(cells[None], 2 * MARGIN + 1, 1, MARGIN)
    config = CanvasConfig(texture=texture, memory=memory)
    scene = Scene(nca, *cells.shape, steps, seed=seed, speed=alive.expand(3, -1, -1), config=config, **how)
    drawn = nca.to_rgb(render(scene, progress)).float().cpu()
    if zoom != 1:
        size = [round(side * zoom) for side in cells.shape]
        drawn = F.interpolate(drawn, size, mode="bicubic", antialias=zoom < 1).clamp(0, 1)
    edge = round(MARGIN * zoom)
    return drawn[0, :, edge : edge + height, edge : edge + width]


def light_of(photo: Tensor, area: Area) -> Tensor:
    """Finds how the light lies on an area of a photograph: its brightness without detail, of which the mean is 1.

    Args:
        photo: In linear light, [3, H, W].

    Returns:
        For the area's box, [h, w].
    """
    cover = area.cover[area.box]
    brightness = luminance(photo[(slice(None), *area.box)])
    sums = torch.stack([brightness * cover, cover])  # what is beside the area has no say
    for _ in range(3):  # near to a Gaussian
        sums = _mean_around(sums, round(_LIGHT * math.sqrt(area.pixels)))
    smooth = sums[0] / sums[1].clamp(min=1e-6)
    mean = float((smooth * cover).sum() / cover.sum())
    return (smooth / max(mean, 1e-4)).clamp(1 / _MOST_LIGHT, _MOST_LIGHT)


def filled(
    photo: Tensor, texture: Tensor, area: Area, blend: BlendName = "soft", light: float = 0.0, strength: float = 1.0
) -> Tensor:
    """Puts a texture into an area of a picture.

    At the border the two are mixed in linear light, as out of focus they would be; with `poisson` the colours of the
    texture are shifted before, by what is smoothest, so that they meet those of the picture there.

    Args:
        photo: [3, H, W] in [0, 1].
        texture: For the area's box, [3, h, w] in [0, 1].
        area: See there.
        blend: See above.
        light: How much of the photograph's own light stays on the area, 0 to 1.
        strength: How opaque the texture is, 0 to 1.

    Returns:
        [3, H, W]; outside of the area `photo`, to the bit.
    """
    where = (slice(None), *area.box)
    below, cover = photo[where], area.cover[area.box]
    above = to_linear(texture)
    if light:
        above = above * light_of(to_linear(photo), area) ** light
    if blend == "poisson":
        shown = to_srgb(above)
        above = to_linear((shown + membrane(below - shown, cover > 0)).clamp(0, 1))
    mixed = to_srgb(torch.lerp(to_linear(below), above.clamp(0, 1), cover * strength))
    result = photo.clone()
    result[where] = torch.where(cover > 0, mixed, below)
    return result


def is_unlike(texture: Tensor, area: Area, swatch: Tensor) -> bool:
    """Whether a texture in an area has colours that those of its swatch do not explain, as after too short a training.

    Args:
        texture: For the area's box, [3, h, w] in [0, 1].
        area: See there.
        swatch: What was to be learned, [3, H, W] in [0, 1].

    Returns:
        True where the mean of a channel is off by more than `_FAR`, or the colours spread `_WIDER` times as much or as
        little.
    """
    drawn, learned = texture[:, area.cover[area.box] > 0], swatch.flatten(1)
    away = (drawn.mean(1) - learned.mean(1)).abs().max()
    spreads = [max(float(pixels.var(1, correction=0).sum().sqrt()), _FLAT) for pixels in (drawn, learned)]
    return bool(away > _FAR) or max(spreads) > _WIDER * min(spreads)


def _mean_around(maps: Tensor, width: int) -> Tensor:
    """Averages maps [C, h, w] over squares of `width` pixels on a side, or one more where that is even."""
    half = width // 2
    return F.avg_pool2d(F.pad(maps[None], (half,) * 4, mode="replicate"), 2 * half + 1, 1)[0]
