"""What several systems draw: what an automaton grows by itself, and what it makes of a picture."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nca_fast.canvas.paint import Paint, beside_each_other, one_after_another
from nca_fast.canvas.scene import Scene
from nca_fast.hexagons import draws_hexagons, levelled
from nca_fast.media.film import missing_encoder
from nca_fast.nca import NCA
from nca_fast.rendering.film import film
from nca_fast.rendering.picture import picture
from nca_fast.rendering.render import render
from nca_fast.textures import tiling
from nca_fast.training.system import PoolSystem

_HEXAGON = 6  # pixels from one hexagon to the next
ALWAYS = 2**24  # cell-steps of a picture that is drawn at whatever end: some seconds of a core


def grown(system: PoolSystem) -> Tensor:
    """Renders what an automaton grows from its start state in the longest rollout of its training, of all textures that
    it knows if there are several. [3, H, W]"""
    (height, width), textures = system.size(), system.nca.textures
    if not textures:
        return redrawn(system, None, height, width, system.config.steps_max)
    rows, columns = tiling(len(textures)).shape
    height, width = rows * height, columns * width
    return redrawn(system, None, height, width, system.config.steps_max, beside_each_other(textures, height, width))


def redrawn(
    system: PoolSystem, image: Tensor | None, height: int, width: int, steps: int, paint: Paint | None = None
) -> Tensor:
    """Renders what an automaton makes of a picture [3, height, width], or of its start state. [3, height, width]"""
    scene = replace(_scene(system, height, width, steps, image, seed=system.derived("preview")), paint=paint)
    return beside_colours(system.nca, render(scene))


def beside_colours(nca: NCA, state: Tensor) -> Tensor:
    """Shows a state [1, C, H, W]: its colours, and beside them its maps if it has some. Hexagons become squares.
    [3, H, W times 1 + maps]"""
    shown = [nca.to_rgb(state), *(nca.to_map(state, name).expand(-1, 3, -1, -1) for name in nca.maps)]
    shown = map(levelled, shown) if draws_hexagons(nca) else shown
    return torch.cat(list(shown), 3)[0]


def draw_grown(
    system: PoolSystem, out: Path, progress: bool, iterations: int, frames: int, side: int | None = None
) -> None:
    """Writes a picture, four times as large as the training canvas or as `side` cells, and a film, twice as large, of
    what an automaton grows. Of several textures the picture shows all, beside each other, and the film one after the
    other. The picture is smaller where it would take long beside the training.

    Args:
        iterations: Of the training.
        frames: Steps of the film that nobody asked for, but that is made where it does not take long; 0: no film.
    """
    (still, moving), config, textures = system.files[:2], system.config, system.nca.textures
    height, width = system.size() if side is None else (side, side)
    allowed = max(ALWAYS, system.spare(iterations))
    times = next((n for n in (4, 2) if n * height * n * width * config.picture_steps <= allowed), 1)
    scene = _scene(system, times * height, times * width, config.picture_steps)
    if textures:
        scene = replace(scene, paint=beside_each_other(textures, scene.height, scene.width))
    hexagons = draws_hexagons(system.nca)
    picture(scene, out / still, zoom=_HEXAGON if hexagons else 1, progress=progress)
    steps = system.film_steps(frames, 4 * height * width, iterations)
    if steps and not missing_encoder(out / moving):
        scene = _scene(system, 2 * height, 2 * width, steps)
        if textures:
            scene = replace(scene, paint=one_after_another(textures, scene.height, scene.width))
        film(scene, out / moving, zoom=_HEXAGON if hexagons else 2, progress=progress)


def draw_redrawn(
    system: PoolSystem,
    image: Tensor,
    steps: int,
    steps_per_frame: int,
    out: Path,
    progress: bool,
    iterations: int,
    frames: int,
) -> None:
    """Writes what an automaton makes of a picture [3, h, w], and a film of it; the last two as in `draw_grown`."""
    still, moving = system.files
    picture(_scene(system, *image.shape[1:], steps, image), out / still, progress=progress)
    filmed = system.film_steps(frames, image[0].numel(), iterations)
    if filmed and not missing_encoder(out / moving):
        scene = _scene(system, *image.shape[1:], filmed, image)
        film(scene, out / moving, steps_per_frame=steps_per_frame, progress=progress)


def _scene(
    system: PoolSystem, height: int, width: int, steps: int, image: Tensor | None = None, seed: int | None = None
) -> Scene:
    seed = system.config.seed if seed is None else seed
    return Scene(system.nca, height, width, steps, seed=seed, image=image, **system.config.how)
