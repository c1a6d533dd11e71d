"""What several systems draw: what an automaton grows by itself, and what it makes of a picture."""

import shlex
from pathlib import Path
from typing import Any

from torch import Tensor

from nca_fast.rendering.render import even_speed, render, speed_ramp
from nca_fast.rendering.show import film, picture
from nca_fast.training.system import PoolSystem


def grown(system: PoolSystem) -> Tensor:
    """Renders what an automaton grows from its start state in the longest rollout of its training. [3, H, W]"""
    return redrawn(system, None, *system.size(), system.config.steps_max)


def redrawn(system: PoolSystem, image: Tensor | None, height: int, width: int, steps: int) -> Tensor:
    """Renders what an automaton makes of a picture [3, height, width], or of its start state. [3, height, width]"""
    seed = system.derived("preview")
    state = render(system.nca, height, width, steps, seed=seed, image=image, backend=system.config.backend)
    return system.nca.to_rgb(state)[0]


def draw_grown(system: PoolSystem, out: Path, progress: bool) -> None:
    """Writes a picture, four times as large as the training canvas, and a film of what an automaton grows."""
    (still, moving), config = system.files, system.config
    height, width = system.size()
    picture(system.nca, 4 * height, 4 * width, config.picture_steps, out / still, **_same(system, progress))
    if config.video_steps:
        frames = speed_ramp(config.video_steps)
        film(system.nca, 2 * height, 2 * width, frames, out / moving, zoom=2, **_same(system, progress))


def draw_redrawn(
    system: PoolSystem, image: Tensor, steps: int, steps_per_frame: int, out: Path, progress: bool
) -> None:
    """Writes what an automaton makes of a picture [3, h, w], and a film of it."""
    (still, moving), config = system.files, system.config
    height, width = image.shape[1:]
    picture(system.nca, height, width, steps, out / still, image=image, **_same(system, progress))
    if config.video_steps:
        frames = even_speed(config.video_steps, steps_per_frame)
        film(system.nca, height, width, frames, out / moving, image=image, **_same(system, progress))


def next_render(out: Path, side: int = 1024, steps: int = 300, name: str = "big.png") -> str:
    """The command that draws what an automaton grows on another canvas."""
    return f"next: nca-fast render {shlex.quote(str(out))} --height {side} --width {side} --steps {steps} --out {name}"


def next_apply(out: Path, name: str) -> str:
    """The command that lets an automaton redraw a picture."""
    return f"next: nca-fast apply {shlex.quote(str(out))} PICTURE --out {name}"


def _same(system: PoolSystem, progress: bool) -> dict[str, Any]:
    return {"seed": system.config.seed, "progress": progress, "backend": system.config.backend}
