"""Texture synthesis: an automaton that grows, out of nothing and for ever, the texture of one picture.

The loss compares statistics of the pictures, never their cells, so the automaton is free to lay its own bricks.

Source: Niklasson, Mordvintsev, Randazzo and Levin, "Self-Organising Textures", Distill 2021, and its PyTorch notebook.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast import checkpoint, features
from nca_fast.files import check_writable
from nca_fast.images import load_image
from nca_fast.losses import regularizers, style
from nca_fast.nca import NCA
from nca_fast.rendering.canvas import render, speed_ramp
from nca_fast.rendering.show import film, picture
from nca_fast.training import run_folder
from nca_fast.training.listeners import Checkpoints, JsonLog, PreviewStrip, ProgressBar
from nca_fast.training.loop import Report, Run, default_milestones, derived_seed, learning_rate_at, train
from nca_fast.training.pool import Pool
from nca_fast.training.texture_config import FREE_ON_RESUME, SMALLEST_IMAGE, TextureConfig

PREVIEWS = 11  # with the target they fill one row of the strip


@dataclass(frozen=True)
class TextureResult:
    """What a training left behind.

    Args:
        nca: The trained automaton.
        files: What was written, in the order in which a user looks at it.
        iterations: Iterations of the whole run.
        seconds: Wall time of the iterations of this call.
        cell_steps_per_second: Speed of these iterations, losses and checkpoints included.
    """

    nca: NCA
    files: tuple[Path, ...]
    iterations: int
    seconds: float
    cell_steps_per_second: float


def train_texture(
    config: TextureConfig,
    image: str | Path | Tensor | None,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> TextureResult:
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
        A TextureResult.

    Raises:
        ValueError: Bad picture, or settings that differ from those of the run to resume.
        OSError: The folder is not writable, or holds a model and `resume` is False; or the disk is full.
        FloatingPointError: The training diverged; the folder holds its last saved state.
        KeyboardInterrupt: Ctrl-C. The iteration was finished and saved, and the run can be resumed.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume)
    if saved is None:
        if image is None:
            raise ValueError(f"image must be given to begin a run, and folder {out} holds none to resume.")
        config = replace(config, lr_milestones=config.lr_milestones or default_milestones(config.iterations))
        target = _target(image, config.image_crop, config.image_size)
    else:
        config = run_folder.agreed_config(config, saved.metadata["config"], FREE_ON_RESUME, out)
        target = saved.tensors["target"]
        if image is not None and not torch.equal(_target(image, config.image_crop, config.image_size), target):
            raise ValueError(f"image must be that of the run in {out}, but {image} shows something else. Leave it out.")
    check_writable(out)

    with run_folder.cpu_threads(config.threads):
        run = _run(config, saved)
        if run.iteration > config.iterations:
            raise ValueError(f"iterations must be at least the {run.iteration} done, but got {config.iterations}.")
        objective = _objective(config, target, run.nca)
        strip = PreviewStrip(
            out / "preview.png",
            target,
            draw=lambda: _grown(config, run.nca),
            every=config.preview_every or -(-config.iterations // PREVIEWS),
            pictures=saved and saved.tensors.get("previews"),
        )
        name = saved.metadata["image"] if saved else None if isinstance(image, Tensor) else str(image)

        def save() -> None:
            metadata = {"nca": run.nca.config(), "config": asdict(config), "image": name, "iteration": run.iteration}
            tensors = run.tensors() | strip.tensors() | {"target": target}
            checkpoint.save(out / run_folder.TRAINING_FILE, tensors, metadata)
            facts = {"command": command, "seed": config.seed, "image": name, "iterations": run.iteration}
            run.nca.save_pretrained(out, provenance=facts | {"config": asdict(config)})

        with torch.no_grad():  # the first rollout compiles the kernel, or says why the backend cannot serve
            run.nca(run.pool.states[:1], steps=1, backend=config.backend)
        if saved is None:
            save()  # a full disk shows now, and a run killed in its first minute can be resumed
        first, cell_steps, begin = run.iteration, 0, time.perf_counter()

        def count(report: Report) -> None:
            nonlocal cell_steps
            cell_steps += report.cell_steps

        def rate(iteration: int) -> float:
            return learning_rate_at(iteration, config.learning_rate, config.lr_milestones, config.lr_gamma)

        checkpoints = Checkpoints(save, config.checkpoint_every, config.checkpoint_seconds)
        with JsonLog(out / "log.jsonl", first) as log, ProgressBar(config.iterations, first, progress) as bar:
            complete = train(
                run,
                objective,
                iterations=config.iterations,
                batch_size=config.batch_size,
                reseed_every=config.reseed_every,
                steps_min=config.steps_min,
                steps_max=config.steps_max,
                learning_rate=rate,
                normalize=config.normalize_gradients,
                state_limit=config.state_limit,
                backend=config.backend,
                listeners=(count, log, bar, strip, checkpoints),
            )
        if run.iteration > first:
            save()
        if not complete:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - begin
        files = _show(config, run.nca, out, progress)
    return TextureResult(run.nca, files, run.iteration, seconds, cell_steps / seconds)


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


def _run(config: TextureConfig, saved: run_folder.SavedRun | None) -> Run:
    """The run that a checkpoint holds, or a new one."""
    if saved is None:
        with torch.random.fork_rng(devices=[]):  # initial weights come from torch's global generator
            torch.manual_seed(derived_seed(config.seed, "weights"))
            nca = NCA.preset(config.preset)
    else:
        nca = NCA.from_config(saved.metadata["nca"])
    optimizer = torch.optim.Adam(nca.parameters(), lr=config.learning_rate)
    if saved is not None:
        return Run.restored(nca, optimizer, saved.tensors, config.seed, saved.metadata["iteration"])
    size, seed = config.image_size, derived_seed(config.seed, "pool")
    return Run(nca, optimizer, Pool(nca.initial_state(config.pool_size, size, size, seed=seed)), config.seed)


def _grown(config: TextureConfig, nca: NCA) -> Tensor:
    """What the automaton grows by itself, from its start state and not from what the pool has gathered. [3, H, W]"""
    size, seed = config.image_size, derived_seed(config.seed, "preview")
    return nca.to_rgb(render(nca, size, size, config.steps_max, seed=seed, backend=config.backend))[0]


def _show(config: TextureConfig, nca: NCA, out: Path, progress: bool) -> tuple[Path, ...]:
    """Writes the picture and the film of the trained automaton; returns all files of the run."""
    names = ["texture.png"]
    same = {"seed": config.seed, "backend": config.backend, "progress": progress}
    size = 4 * config.image_size
    picture(nca, size, size, config.picture_steps, out / names[0], **same)
    if config.video_steps:
        names.append("texture.mp4")
        size = 2 * config.image_size
        film(nca, size, size, speed_ramp(config.video_steps), out / names[1], zoom=2, **same)
    names += ["preview.png", run_folder.MODEL_FILE, "log.jsonl", run_folder.TRAINING_FILE]
    return tuple(out / name for name in names)
