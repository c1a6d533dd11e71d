"""CLIP guidance: an automaton that grows what a sentence says, or changes pictures until they fit it.

Source: Deb, "text-2-cellular-automata", 2022 (out of noise), and Petersen, "Neural Cellular Automata Image
Manipulation", 2022 (of pictures, with content and aesthetic losses). `clip_config.RECIPES` has their settings; the
defaults differ where something else gives better pictures in minutes on a CPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import checkpoint, features, processes
from nca_fast.canvas.scene import Scene
from nca_fast.features.clip import ClipModel
from nca_fast.files import check_writable
from nca_fast.losses import regularizers
from nca_fast.losses.aesthetic import AestheticHead
from nca_fast.losses.clip import PromptDistance, cutouts, flatness, fringes, weights_of, whole
from nca_fast.losses.content import CONTENT_LOSSES
from nca_fast.media.images import load_image
from nca_fast.nca import NCA
from nca_fast.rendering.film import film
from nca_fast.rendering.picture import picture
from nca_fast.rendering.render import render
from nca_fast.systems.clip_settings import FREE_ON_RESUME, ClipConfig
from nca_fast.training import run_folder, session
from nca_fast.training.content import ContentPictures, shrunk, source_name
from nca_fast.training.listeners import PreviewStrip
from nca_fast.training.loop import derived_generator, derived_seed
from nca_fast.training.session import TrainingResult


def train_clip(
    config: ClipConfig,
    prompts: Sequence[str],
    content: Sequence[str | Path | Tensor],
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> TrainingResult:
    """Learns what sentences say, and writes model, picture, film, preview strip, log and training state into a folder.

    Interrupted and resumed runs end as those that were left alone, to the bit; see `texture.train_texture`.

    Args:
        config: The settings. On resuming they must equal those of the run, but for `FREE_ON_RESUME`.
        prompts: "text" or "text:weight" each; a negative weight pushes away. Empty on resuming: the run knows them.
        content: Pictures to change: see `ContentPictures.read`. Empty: the automaton grows out of its start state.
        out: The folder; made when missing. It must not hold a model yet.
        resume: Go on with the run in the folder; when there is none, begin it.
        progress: Show progress bars on stderr.
        command: The command line, for the provenance.

    Returns:
        A TrainingResult.

    Raises:
        ValueError, OSError, FloatingPointError, KeyboardInterrupt: As `texture.train_texture`; for the model as
            `ClipModel`, for prompts as `PromptDistance`, and for `content` as `ContentPictures.read`.
    """
    out = Path(out)
    saved = run_folder.open_run(out, resume)
    config = run_folder.settled_config(config, saved, FREE_ON_RESUME, out)
    asked = {"prompts": list(prompts), "content": [source_name(source) for source in content]}
    if saved is None:
        if not prompts and not config.image_prompts:
            raise ValueError(f"a prompt must be given to begin a run, and folder {out} holds none to resume.")
        config = replace(
            config,
            preset=config.preset or ("image-manipulation" if content else "clip"),
        )
        _check_start(config.preset, bool(content))
        model = ClipModel(config.model, config.pretrained)
        targets, weights = prompt_vectors(model, prompts, config.image_prompts)
        distance = PromptDistance(targets, weights, config.distance)
        pictures = ContentPictures.read(content, config.image_size, config.content_zoom) if content else None
        check_writable(out)
        if pictures and processes.rank() == 0:
            checkpoint.save(out / run_folder.PICTURES_FILE, pictures.tensors(), {})
        names = asked
    else:
        names = {key: saved.metadata[key] for key in asked}
        for key, value in asked.items():
            if value and value != names[key]:
                raise ValueError(f"{key} must be that of the run in {out}, {names[key]}. Leave it out.")
        model = ClipModel(config.model, config.pretrained)
        targets, weights = saved.tensors["targets"], saved.tensors["target_weights"]
        distance = PromptDistance(targets, weights, config.distance)
        pictures = None
        if names["content"]:
            stored, _ = checkpoint.load(out / run_folder.PICTURES_FILE)
            pictures = ContentPictures.restored(stored, config.image_size)
        check_writable(out)

    def start(nca: NCA) -> Callable[[int, int], Tensor]:
        if pictures:
            return pictures.starts(nca)
        size = config.image_size
        return lambda count, seed: nca.initial_state(count, size, size, seed=seed)

    with run_folder.cpu_threads(config.threads):
        run = session.begin_or_restore(config, saved, new_nca=lambda: NCA.preset(config.preset), start=start)
        shown = pictures.squares(1, derived_generator(config.seed, "preview"))[0] if pictures else None
        first = run.nca.to_rgb(start(run.nca)(1, derived_seed(config.seed, "preview")))[0] if shown is None else shown
        strip = PreviewStrip(
            out / "preview.png",
            first,
            draw=lambda: _grown(config, run.nca, shown),
            every=session.preview_every(config),
            pictures=saved and saved.tensors.get("previews"),
        )
        seconds, speed = session.conduct(
            config,
            run,
            clip_objective(config, model, distance, run.nca),
            out,
            strip=strip,
            kept={"targets": targets, "target_weights": weights},
            names=names,
            start=start(run.nca),
            bptt_steps=config.bptt_steps,
            command=command,
            progress=progress,
        )
        files = _show(config, run.nca, pictures, out, progress) if processes.rank() == 0 else ()
    return TrainingResult(run.nca, files, run.iteration, seconds, speed)


def prompt_vectors(
    model: ClipModel, prompts: Sequence[str], image_prompts: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """The vectors of prompts, encoded once, and their weights.

    Args:
        model: The CLIP model.
        prompts: "text" or "text:weight" each.
        image_prompts: "FILE" or "FILE:WEIGHT" each; the middle square of the picture counts.

    Returns:
        [P, width] and [P], texts first.

    Raises:
        ValueError: As `parse_prompt`, `ClipModel.encode_text` and `load_image`.
    """
    texts, text_weights = weights_of(prompts)
    files, file_weights = weights_of(image_prompts)
    vectors = [model.encode_text(texts)] if texts else []
    with torch.no_grad():
        for file in files:
            image = load_image(file)
            side = min(image.shape[1:])
            top, left = ((length - side) // 2 for length in image.shape[1:])
            square = image[None, :, top : top + side, left : left + side]
            vectors.append(model(torch.nn.functional.interpolate(square, model.size, mode="bilinear", antialias=True)))
    return torch.cat(vectors).float(), torch.tensor(text_weights + file_weights)


def clip_objective(
    config: ClipConfig, model: ClipModel, distance: PromptDistance, nca: NCA
) -> Callable[[Tensor, torch.Generator], dict[str, Tensor]]:
    """The losses of a batch of states.

    Args:
        config: The settings.
        model: Looks at the pictures.
        distance: Of its vectors to the prompts.
        nca: The automaton; if it starts from pictures, its frozen channels hold them.

    Returns:
        (states [B, C, H, W], generator) -> the weighted losses by name; those of weight 0 are not computed.

    Raises:
        ValueError: As `AestheticHead`; content layers that are not among the feature maps.
    """
    head = AestheticHead(config.aesthetic, model.width, config.aesthetic_target) if config.aesthetic else None
    keeps_content = nca.start == "image" and config.content_weight > 0
    if keeps_content:
        extractor = features.load(config.features, weights=config.weights)
        content_distance = CONTENT_LOSSES[config.content_loss]

    def look(rgb: Tensor, generator: torch.Generator) -> Tensor:
        if not config.cutouts:
            return whole(rgb, model.size)
        return cutouts(
            rgb,
            model.size,
            config.cutouts,
            generator,
            smallest=config.cutout_min,
            largest=config.cutout_max,
            wrap=nca.start != "image",
            noise=config.cutout_noise,
            jitter=config.cutout_jitter,
        )

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rgb = nca.to_rgb(states, clamp=False)
        # The mean over cutouts, summed over samples: times the cells, or as a mean over the whole batch.
        factor = rgb.shape[2] * rgb.shape[3] if config.clip_scale == "cells" else 1 / config.batch_size
        factor /= max(config.cutouts, 1)
        views = look(rgb.clamp(0, 1) if config.clip_input == "shown" else rgb, generator)
        vectors = model(views / 2 if config.clip_input == "halved" else views, normalize=config.clip_input != "raw")
        losses = {"clip": config.clip_weight * factor * distance(vectors).sum()}
        if head and config.aesthetic_weight:
            losses["aesthetic"] = config.aesthetic_weight * factor * head(vectors).sum()
        if keeps_content:
            maps = extractor(rgb)
            with torch.no_grad():
                wanted = extractor(states[:, : nca.rule.frozen] + 0.5)
            losses["content"] = config.content_weight * content_distance(maps, wanted, config.content_layers)
        if config.overflow_weight:
            losses["overflow"] = config.overflow_weight * regularizers.overflow(states)
        if config.range_weight:
            losses["range"] = config.range_weight * regularizers.overflow(rgb, 0.0, 1.0)
        if config.contrast_weight:
            losses["contrast"] = config.contrast_weight * flatness(rgb.clamp(0, 1), config.contrast)
        if config.fringe_weight:
            losses["fringe"] = config.fringe_weight * fringes(rgb.clamp(0, 1))
        if config.variation_weight:
            losses["variation"] = config.variation_weight * regularizers.total_variation(rgb)
        return losses

    return objective


def _check_start(preset: str, with_content: bool) -> None:
    """Raises ValueError for an automaton that needs a picture and has none, or has one and cannot use it."""
    starts_from_image = NCA.preset(preset).start == "image"
    if starts_from_image != with_content:
        rule = "pictures to change (content)" if starts_from_image else "no pictures to change"
        raise ValueError(f"preset {preset!r} must be used with {rule}. Choose another preset, or leave it out.")


def _grown(config: ClipConfig, nca: NCA, image: Tensor | None) -> Tensor:
    """What the automaton makes of a picture, or grows by itself, in its longest rollout. [3, H, W]"""
    size, seed = config.image_size, derived_seed(config.seed, "preview")
    scene = Scene(nca, size, size, config.steps_max, seed=seed, backend=config.backend, image=image)
    return nca.to_rgb(render(scene))[0]


def _show(
    config: ClipConfig, nca: NCA, pictures: ContentPictures | None, out: Path, progress: bool
) -> tuple[Path, ...]:
    """Writes picture and film of the trained automaton; returns all files of the run."""
    names = ["clip.png"]
    how = {"seed": config.seed, "backend": config.backend}
    if pictures:
        image = shrunk(pictures.pictures[0] / 255, config.picture_size)
        height, width = image.shape[1:]
        picture(Scene(nca, height, width, config.steps_max, image=image, **how), out / names[0], progress=progress)
        if config.video_steps:
            names.append("clip.mp4")
            scene = Scene(nca, height, width, config.video_steps, image=image, **how)
            film(scene, out / names[1], steps_per_frame=2, progress=progress)
    else:
        size = 4 * config.image_size
        picture(Scene(nca, size, size, config.picture_steps, **how), out / names[0], progress=progress)
        if config.video_steps:
            names.append("clip.mp4")
            size = 2 * config.image_size
            film(Scene(nca, size, size, config.video_steps, **how), out / names[1], zoom=2, progress=progress)
    names += ["preview.png", run_folder.MODEL_FILE, "log.jsonl", run_folder.TRAINING_FILE]
    names += [run_folder.PICTURES_FILE] if pictures else []
    return tuple(out / name for name in names if (out / name).exists())  # a short run may have no preview
