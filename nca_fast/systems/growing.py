"""A growing automaton: one cell becomes a picture, stays it, and mends it after damage.

Source: Mordvintsev, Randazzo, Niklasson and Levin, "Growing Neural Cellular Automata", Distill 2020, and its notebook.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast import processes
from nca_fast.files import check_writable
from nca_fast.losses import regularizers
from nca_fast.media.film import VideoWriter
from nca_fast.media.images import load_rgba, save_image
from nca_fast.nca import NCA
from nca_fast.systems.growing_config import FREE_ON_RESUME, GrowingConfig
from nca_fast.training import run_folder, session
from nca_fast.training.damage import circles
from nca_fast.training.listeners import PreviewStrip
from nca_fast.training.loop import derived_seed
from nca_fast.training.session import TrainingResult

RADII = (0.1, 0.6)  # of the circles that a training erases; 1 is half the side of the canvas. (The notebook: to 0.4.)
GROWN = 128  # steps after which the picture should be there, and there again
ZOOM = 4  # pixels along the side of a cell


def train_growing(
    config: GrowingConfig,
    image: str | Path | Tensor | None,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> TrainingResult:
    """Learns to grow a picture, and writes model, pictures, film, preview strip, log and training state into a folder.

    Interrupted and resumed runs end as those that were left alone, to the bit; see `texture.train_texture`.

    Args:
        config: The settings. On resuming they must equal those of the run, but for `FREE_ON_RESUME`.
        image: File, or the picture itself: [4, H, W], RGB multiplied by alpha, and alpha. None on resuming.
        out, resume, progress, command: As in `texture.train_texture`.

    Returns:
        A TrainingResult.

    Raises:
        ValueError, OSError, FloatingPointError, KeyboardInterrupt: As `texture.train_texture`.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume)
    config = run_folder.settled_config(config, saved, FREE_ON_RESUME, out)
    if saved is None:
        if image is None:
            raise ValueError(f"image must be given to begin a run, and folder {out} holds none to resume.")
        target = _target(image, config)
    else:
        target = saved.tensors["target"]
        if image is not None and not torch.equal(_target(image, config), target):
            raise ValueError(f"image must be that of the run in {out}, but {image} shows something else. Leave it out.")
    check_writable(out)

    with run_folder.cpu_threads(config.threads):
        height, width = target.shape[1:]
        run = session.begin_or_restore(
            config,
            saved,
            new_nca=lambda: _automaton(config),
            start=lambda nca: lambda count, seed: nca.initial_state(count, height, width, seed=seed),
        )
        strip = PreviewStrip(
            out / "preview.png",
            on_white(target),
            draw=lambda: run.nca.to_rgb(grown(run.nca, target, config))[0],
            every=session.preview_every(config),
            pictures=saved and saved.tensors.get("previews"),
        )
        seconds, speed = session.conduct(
            config,
            run,
            _objective(config, target),
            out,
            strip=strip,
            kept={"target": target},
            names={"image": saved.metadata["image"] if saved else None if isinstance(image, Tensor) else str(image)},
            alter=_alteration(config, target, run.nca),
            command=command,
            progress=progress,
        )
        files = _show(config, run.nca, target, out) if processes.rank() == 0 else ()
    return TrainingResult(run.nca, files, run.iteration, seconds, speed)


def on_white(rgba: Tensor) -> Tensor:
    """A picture [4, H, W], RGB multiplied by alpha, as it looks on white paper. [3, H, W]"""
    return (1 - rgba[3:] + rgba[:3]).clamp(0, 1)


def errors(states: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of red, green, blue and alpha of each state. [B, C, H, W], [4, H, W] -> [B]"""
    return (states[:, :4] - target).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Regrowth:
    """How an automaton mends itself: errors as `errors` gives them, and the states [1, C, H, W] they belong to."""

    before: float
    damaged: float
    after: float
    states: tuple[Tensor, Tensor, Tensor]


def wound(height: int, width: int) -> Tensor:
    """What is left when a large circle in the right half is erased: 1 outside and 0 inside of it, [height, width]."""
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return (rows.square() + (columns - 0.4).square() >= 0.5**2).float()


@torch.no_grad()
def regrowth(
    nca: NCA, target: Tensor, left: Tensor, *, steps: int = GROWN, seed: int = 0, backend: str | None = None
) -> Regrowth:
    """Grows the picture, keeps of it what is in `left` [H, W], and lets it go on for as many steps again."""
    grown = nca(nca.initial_state(1, *target.shape[1:]), steps, seed=seed, backend=backend)
    cut = grown * left
    mended = nca(cut, steps, seed=seed, first_step=steps, backend=backend)
    states = (grown, cut, mended)
    return Regrowth(*(float(errors(state, target)[0]) for state in states), states)


def grown(nca: NCA, target: Tensor, config: GrowingConfig) -> Tensor:
    """What the automaton grows from a single cell, not from what the pool has gathered. [1, C, H, W]"""
    state = nca.initial_state(1, *target.shape[1:])
    with torch.no_grad():
        return nca(state, config.steps_max, seed=derived_seed(config.seed, "preview"), backend=config.backend)


def _target(image: str | Path | Tensor, config: GrowingConfig) -> Tensor:
    """The picture to learn in the middle of an empty canvas. [4, H, W]"""
    picture = image if isinstance(image, Tensor) else load_rgba(image, config.image_size)
    if picture.ndim != 3 or picture.shape[0] != 4:
        raise ValueError(f"image must be [4, h, w], but its shape is {list(picture.shape)}.")
    if max(picture.shape[1:]) > config.image_size:
        raise ValueError(
            f"image must be at most image_size={config.image_size} pixels high and wide, to which files are shrunk, "
            f"but it is {picture.shape[1]} x {picture.shape[2]}."
        )
    if picture[3].max() <= 0.1:
        raise ValueError("image must have pixels that are not transparent, but has none: nothing could live.")
    return F.pad(picture, [config.image_margin] * 4)


def _automaton(config: GrowingConfig) -> NCA:
    nca = NCA.preset(config.preset)
    if nca.start != "cell" or nca.rule.alive_channel != 3:
        raise ValueError(
            f"preset must be an automaton that grows from a cell and has RGB and alpha, such as 'growing', but got "
            f"{config.preset!r}."
        )
    return nca


def _objective(config: GrowingConfig, target: Tensor) -> Callable[[Tensor, torch.Generator], dict[str, Tensor]]:
    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        losses = {"mse": errors(states, target).sum()}
        if config.overflow_weight:
            losses["overflow"] = config.overflow_weight * regularizers.overflow(states)
        return losses

    return objective


def _alteration(config: GrowingConfig, target: Tensor, nca: NCA) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Of a batch from the pool the worst state starts afresh, so that the automaton does not forget how to begin, and
    the best ones are damaged, so that it learns to mend."""
    height, width = target.shape[1:]

    def alter(states: Tensor, generator: torch.Generator) -> Tensor:
        order = errors(states, target).argsort(descending=True)
        states[order[:1]] = nca.initial_state(1, height, width)
        for n in order[len(order) - config.damage :]:
            states[n] *= circles(height, width, 1, *RADII, generator).to(states)
        return states

    return alter


def _show(config: GrowingConfig, nca: NCA, target: Tensor, out: Path) -> tuple[Path, ...]:
    """Draws what was learned: grown, wounded, regrown, and a film of it. Returns all files of the run."""
    left = wound(*target.shape[1:])
    mended = regrowth(nca, target, left, seed=config.seed, backend=config.backend)
    pictures = [on_white(target), *(nca.to_rgb(state)[0] for state in mended.states)]
    save_image(_enlarged(torch.cat(pictures, dim=2)), out / "regrowth.png")
    half, state = config.video_steps // 2, nca.initial_state(1, *target.shape[1:])
    with torch.no_grad(), VideoWriter(out / "growing.mp4", fps=30) as video:
        for step in range(config.video_steps):
            if step == half:
                state = state * left
            video.add(_enlarged(nca.to_rgb(state)[0]))
            state = nca(state, 1, seed=config.seed, first_step=step, backend=config.backend)
    names = ["regrowth.png", "growing.mp4", "preview.png", run_folder.MODEL_FILE, "log.jsonl", run_folder.TRAINING_FILE]
    return tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview


def _enlarged(image: Tensor) -> Tensor:
    return image.repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2)
