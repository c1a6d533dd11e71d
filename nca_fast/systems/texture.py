"""Texture synthesis: an automaton that grows, out of nothing and for ever, the texture of one picture.

The loss compares statistics of the pictures, never their cells, so the automaton is free to lay its own bricks.

Source: Niklasson, Mordvintsev, Randazzo and Levin, "Self-Organising Textures", Distill 2021, and its PyTorch notebook.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast import features, processes
from nca_fast.canvas.scene import Scene
from nca_fast.files import check_writable
from nca_fast.losses import regularizers, style
from nca_fast.media.images import load_image
from nca_fast.nca import NCA
from nca_fast.rendering.film import film
from nca_fast.rendering.picture import picture
from nca_fast.rendering.render import render
from nca_fast.systems.texture_config import FREE_ON_RESUME, SMALLEST_IMAGE, TextureConfig
from nca_fast.training import run_folder, session
from nca_fast.training.listeners import PreviewStrip
from nca_fast.training.loop import derived_seed
from nca_fast.training.session import TrainingResult


def train_texture(
    config: TextureConfig,
    image: str | Path | Tensor | None,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> TrainingResult:
    """Learns a texture, and writes model, picture, film, preview strip, log and training state into a folder.

    A run that was interrupted, or killed at any moment, and is resumed with the same number of threads ends with the
    same weights and pictures, to the bit, as one that was left alone. `iterations` may be raised on the way; the
    learning rate then goes on as it was planned at the beginning.

    Args:
        config: The settings. On resuming they must equal those of the run, but for `FREE_ON_RESUME`.
        image: File, "skimage:NAME", or the picture itself, [3, H, W] in [0, 1]. None on resuming: the run knows it.
        out: The folder; made when missing. It must not hold a model yet.
        resume: Go on with the run in the folder; when there is none, begin it.
        progress: Show progress bars on stderr.
        command: The command line, for the provenance.

    Returns:
        A TrainingResult.

    Raises:
        ValueError: Bad picture, or settings that differ from those of the run to resume.
        OSError: The folder is not writable, or holds a model and `resume` is False; or the disk is full.
        FloatingPointError: The training diverged; the folder holds its last saved state.
        KeyboardInterrupt: Ctrl-C. The iteration was finished and saved, and the run can be resumed.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume)
    config = run_folder.settled_config(config, saved, FREE_ON_RESUME, out)
    if saved is None:
        if image is None:
            raise ValueError(f"image must be given to begin a run, and folder {out} holds none to resume.")
        target = _target(image, config.image_crop, config.image_size)
    else:
        target = saved.tensors["target"]
        if image is not None and not torch.equal(_target(image, config.image_crop, config.image_size), target):
            raise ValueError(f"image must be that of the run in {out}, but {image} shows something else. Leave it out.")
    check_writable(out)

    with run_folder.cpu_threads(config.threads):
        size = config.image_size
        run = session.begin_or_restore(
            config,
            saved,
            new_nca=lambda: NCA.preset(config.preset),
            start=lambda nca: lambda count, seed: nca.initial_state(count, size, size, seed=seed),
        )
        strip = PreviewStrip(
            out / "preview.png",
            target,
            draw=lambda: _grown(config, run.nca),
            every=session.preview_every(config),
            pictures=saved and saved.tensors.get("previews"),
        )
        name = saved.metadata["image"] if saved else None if isinstance(image, Tensor) else str(image)
        seconds, speed = session.conduct(
            config,
            run,
            _objective(config, target, run.nca),
            out,
            strip=strip,
            kept={"target": target},
            names={"image": name},
            command=command,
            progress=progress,
        )
        files = _show(config, run.nca, out, progress) if processes.rank() == 0 else ()
    return TrainingResult(run.nca, files, run.iteration, seconds, speed)


def _target(image: str | Path | Tensor, crop: int | None, size: int) -> Tensor:
    """The picture to learn, [3, h, w] in [0, 1]: of a file the middle, when asked for, shrunk to the canvas."""
    if isinstance(image, Tensor):
        target = image
    else:
        target = load_image(image, max_size=size if crop is None else None)
    if target.ndim != 3 or target.shape[0] != 3:
        raise ValueError(f"image must be [3, h, w], but its shape is {list(target.shape)}.")
    height, width = target.shape[1:]
    if crop is not None:
        if crop > min(height, width):
            raise ValueError(f"image_crop must be at most the {height} x {width} pixels of the image, but got {crop}.")
        top, left = (height - crop) // 2, (width - crop) // 2
        target = target[:, top : top + crop, left : left + crop]
        if crop > size:
            target = F.interpolate(target[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    elif min(height, width) < SMALLEST_IMAGE or max(height, width) > size:
        raise ValueError(
            f"image must be at least {SMALLEST_IMAGE} and at most image_size={size} pixels high and wide (files are "
            f"shrunk to that), but it is {height} x {width}. Choose another picture or image size."
        )
    return target.float().contiguous()


def _objective(
    config: TextureConfig, target: Tensor, nca: NCA
) -> Callable[[Tensor, torch.Generator], dict[str, Tensor]]:
    """The losses of a batch of states."""
    extractor = features.load(config.features, weights=config.weights)
    with torch.no_grad():
        targets = extractor(target[None])
    options = {"projections": config.projections} if config.loss == "ot" else {}
    distance = style.STYLE_LOSSES[config.loss](targets, **options)

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rgb = nca.to_rgb(states, clamp=False)
        losses = {"style": distance(extractor(rgb), generator=generator)}
        if config.overflow_weight:
            losses["overflow"] = config.overflow_weight * regularizers.overflow(states)
        return losses

    return objective


def _grown(config: TextureConfig, nca: NCA) -> Tensor:
    """What the automaton grows by itself, from its start state and not from what the pool has gathered. [3, H, W]"""
    size, seed = config.image_size, derived_seed(config.seed, "preview")
    return nca.to_rgb(render(Scene(nca, size, size, config.steps_max, seed=seed, backend=config.backend)))[0]


def _show(config: TextureConfig, nca: NCA, out: Path, progress: bool) -> tuple[Path, ...]:
    """Writes the picture and the film of the trained automaton; returns all files of the run."""
    names = ["texture.png"]
    how, size = {"seed": config.seed, "backend": config.backend}, 4 * config.image_size
    picture(Scene(nca, size, size, config.picture_steps, **how), out / names[0], progress=progress)
    if config.video_steps:
        names.append("texture.mp4")
        size = 2 * config.image_size
        film(Scene(nca, size, size, config.video_steps, **how), out / names[1], zoom=2, progress=progress)
    names += ["preview.png", run_folder.MODEL_FILE, "log.jsonl", run_folder.TRAINING_FILE]
    return tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview
