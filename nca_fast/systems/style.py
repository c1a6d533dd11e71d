"""Style transfer: an automaton that redraws any picture in the style of one.

Every cell always sees the colour that the picture had there, in its frozen channels, and paints in three others.

Source: Petersen, "Neural Cellular Automata Image Manipulation", 2022, and Hinno, "Neural Cellular Automata for style
transfer", 2024, which adds the losses other than Gram matrices and the filters other than Sobel's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import checkpoint, features, processes
from nca_fast.canvas.scene import Scene
from nca_fast.files import check_writable
from nca_fast.losses import regularizers, style
from nca_fast.losses.color import ColorHistogram
from nca_fast.losses.content import CONTENT_LOSSES
from nca_fast.media.images import load_image
from nca_fast.nca import NCA
from nca_fast.presets import PRESETS, style_filters
from nca_fast.rendering.film import film
from nca_fast.rendering.picture import picture
from nca_fast.rendering.render import render
from nca_fast.systems.style_settings import FREE_ON_RESUME, SMALLEST_STYLE, StyleConfig
from nca_fast.training import run_folder, session
from nca_fast.training.content import ContentPictures, first_picture, shrunk, source_name
from nca_fast.training.listeners import PreviewStrip
from nca_fast.training.loop import derived_generator, derived_seed
from nca_fast.training.session import TrainingResult


def train_style(
    config: StyleConfig,
    style_image: str | Path | Tensor | None,
    content: Sequence[str | Path | Tensor],
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> TrainingResult:
    """Learns a style, and writes model, picture, film, preview strip, log and training state into a folder.

    Interrupted and resumed runs end as those that were left alone, to the bit; see `texture.train_texture`.

    Args:
        config: The settings. On resuming they must equal those of the run, but for `FREE_ON_RESUME`.
        style_image: File, "skimage:NAME", or the picture itself, [3, H, W] in [0, 1]. None on resuming.
        content: What to restyle while learning: see `ContentPictures.read`. Empty on resuming: the run knows it.
        out: The folder; made when missing. It must not hold a model yet.
        resume: Go on with the run in the folder; when there is none, begin it.
        progress: Show progress bars on stderr.
        command: The command line, for the provenance.

    Returns:
        A TrainingResult.

    Raises:
        ValueError, OSError, FloatingPointError, KeyboardInterrupt: As `texture.train_texture`, and for `content` as
            `ContentPictures.read`.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume)
    config = run_folder.settled_config(config, saved, FREE_ON_RESUME, out)
    if saved is None:
        if style_image is None or not content:
            raise ValueError(f"style and content must be given to begin a run, and folder {out} holds none to resume.")
        target = _style(style_image, config.style_size)
        pictures = ContentPictures.read(content, config.content_size, config.content_zoom)
        large = first_picture(content, config.picture_size)
        names = {"style": source_name(style_image), "content": [source_name(source) for source in content]}
    else:
        target = saved.tensors["target"]
        names = {key: saved.metadata[key] for key in ("style", "content")}
        if style_image is not None and not torch.equal(_style(style_image, config.style_size), target):
            raise ValueError(f"style must be that of the run in {out}, but {style_image} shows something else.")
        if content and [source_name(source) for source in content] != names["content"]:
            raise ValueError(f"content must be that of the run in {out}, {names['content']}. Leave it out.")
        tensors, _ = checkpoint.load(out / run_folder.PICTURES_FILE)
        pictures, large = ContentPictures.restored(tensors, config.content_size), tensors["first"]
    check_writable(out)

    with run_folder.cpu_threads(config.threads):
        run = session.begin_or_restore(config, saved, new_nca=lambda: _automaton(config), start=pictures.starts)
        shown = pictures.squares(1, derived_generator(config.seed, "preview"))[0]
        strip = PreviewStrip(
            out / "preview.png",
            shrunk(target, 2 * config.content_size),
            draw=lambda: _restyled(config, run.nca, shown),
            every=session.preview_every(config),
            pictures=saved.tensors["previews"] if saved else (shown[None] * 255).round().to(torch.uint8),
        )
        objective = style_objective(config, target, run.nca)
        if saved is None and processes.rank() == 0:
            checkpoint.save(out / run_folder.PICTURES_FILE, pictures.tensors() | {"first": large}, {})
        seconds, speed = session.conduct(
            config,
            run,
            objective,
            out,
            strip=strip,
            kept={"target": target},
            names=names,
            start=pictures.starts(run.nca),
            bptt_steps=config.bptt_steps,
            command=command,
            progress=progress,
        )
        files = _show(config, run.nca, large / 255, out, progress) if processes.rank() == 0 else ()
    return TrainingResult(run.nca, files, run.iteration, seconds, speed)


def style_objective(
    config: StyleConfig, target: Tensor, nca: NCA
) -> Callable[[Tensor, torch.Generator], dict[str, Tensor]]:
    """The losses of a batch of states.

    Args:
        config: The settings.
        target: The style picture, [3, h, w] in [0, 1].
        nca: The automaton; its frozen channels hold the content pictures.

    Returns:
        (states [B, C, H, W], generator) -> the weighted losses by name; those of weight 0 are not computed.

    Raises:
        ValueError: The content layers are not among the feature maps.
    """
    extractor = features.load(config.features, weights=config.weights)
    with torch.no_grad():
        targets = extractor(target[None])
    if max(config.content_layers) >= len(targets):
        raise ValueError(
            f"content_layers must be from 0 to {len(targets) - 1} with features {config.features!r}, but got "
            f"{config.content_layers}."
        )
    options = {"projections": config.projections} if config.loss == "ot" else {}
    style_distance = style.STYLE_LOSSES[config.loss](targets, **options)
    content_distance = CONTENT_LOSSES[config.content_loss]
    color_distance = ColorHistogram(target[None], config.color_bins, config.color_sigma)

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rgb = nca.to_rgb(states, clamp=False)
        losses = {}
        if config.style_weight or config.content_weight:
            maps = extractor(rgb)
        if config.style_weight:
            losses["style"] = config.style_weight * style_distance(maps, generator=generator)
        if config.content_weight:
            with torch.no_grad():
                wanted = extractor(states[:, : nca.rule.frozen] + 0.5)
            losses["content"] = config.content_weight * content_distance(maps, wanted, config.content_layers)
        if config.color_weight:
            losses["color"] = config.color_weight * color_distance(rgb, generator=generator)
        if config.overflow_weight:
            losses["overflow"] = config.overflow_weight * regularizers.overflow(states)
        if config.variation_weight:
            losses["variation"] = config.variation_weight * regularizers.total_variation(rgb)
        return losses

    return objective


def _style(image: str | Path | Tensor, size: int) -> Tensor:
    """The style picture, [3, h, w] in [0, 1], its longer side at most `size`."""
    target = shrunk(image, size) if isinstance(image, Tensor) else load_image(image, max_size=size)
    if target.ndim != 3 or target.shape[0] != 3 or min(target.shape[1:]) < SMALLEST_STYLE:
        raise ValueError(
            f"style must be [3, h, w], at least {SMALLEST_STYLE} pixels high and wide when its longer side has "
            f"{size}, but it is {list(target.shape)}. Choose another picture or style size."
        )
    return target.float().contiguous()


def _automaton(config: StyleConfig) -> NCA:
    options = PRESETS[config.preset] | {"init_gain": config.init_gain}
    if config.filters is not None:
        options = options | {"rule": replace(options["rule"], filters=style_filters(*config.filters))}
    return NCA(**options)


def _restyled(config: StyleConfig, nca: NCA, image: Tensor) -> Tensor:
    """What the automaton makes of a picture [3, h, w]."""
    height, width = image.shape[1:]
    seed = derived_seed(config.seed, "preview")
    scene = Scene(nca, height, width, config.picture_steps, seed=seed, backend=config.backend, image=image)
    return nca.to_rgb(render(scene))[0]


def _show(config: StyleConfig, nca: NCA, image: Tensor, out: Path, progress: bool) -> tuple[Path, ...]:
    """Writes picture and film of an image, restyled; returns all files of the run."""
    names = ["restyled.png"]
    height, width = image.shape[1:]
    how = {"seed": config.seed, "backend": config.backend, "image": image}
    picture(Scene(nca, height, width, config.picture_steps, **how), out / names[0], progress=progress)
    if config.video_steps:
        names.append("restyled.mp4")
        scene = Scene(nca, height, width, config.video_steps, **how)
        film(scene, out / names[1], steps_per_frame=1, progress=progress)
    names += ["preview.png", run_folder.MODEL_FILE, "log.jsonl", run_folder.TRAINING_FILE, run_folder.PICTURES_FILE]
    return tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview
