"""CLIP guidance: an automaton that grows what a sentence says, or changes pictures until they fit it.

Source: Deb, "text-2-cellular-automata", 2022 (out of noise), and Petersen, "Neural Cellular Automata Image
Manipulation", 2022 (of pictures, with content and aesthetic losses). `clip_settings.RECIPES` has their settings; the
defaults differ where something else gives better pictures in minutes on a CPU.
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nca_fast import checkpoint, features
from nca_fast.devices import network_dtype
from nca_fast.features.clip import ClipModel
from nca_fast.losses import regularizers, weighted
from nca_fast.losses.aesthetic import AestheticHead
from nca_fast.losses.clip import PromptDistance, cutouts, flatness, fringes, whole
from nca_fast.losses.content import CONTENT_LOSSES, check_layers
from nca_fast.media.images import load_image, source_name
from nca_fast.nca import NCA
from nca_fast.prompts import weights_of
from nca_fast.systems.clip_settings import CLIP, FILMED, ClipConfig, ClipSources
from nca_fast.systems.drawing import draw_grown, draw_redrawn, grown, redrawn
from nca_fast.training.capture import Captured
from nca_fast.training.content import ContentPictures, shrunk
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import PICTURES_FILE, SavedRun
from nca_fast.training.settings import FREE_ON_RESUME
from nca_fast.training.system import PoolSystem


class Clip(PoolSystem):
    """CLIP guidance; see `CLIP` for what its command says."""

    name, Sources, Config = CLIP.name, ClipSources, ClipConfig
    free_on_resume = (*FREE_ON_RESUME, "picture_steps", "picture_size", "video_steps")
    files = ("clip.png", "clip.mp4")
    opens = "reading CLIP's weights, and the prompts"

    def __init__(self, config: ClipConfig, sources: ClipSources, saved: SavedRun | None, out: Path):
        asked = {
            "prompts": list(sources.prompts),
            "content": [source_name(source) for source in sources.content],
        }
        self.config, self.facts, self.pictures = config, dict(asked), None
        if saved is None:
            preset = config.preset or ("image-manipulation" if sources.content else "clip")
            _check_start(preset, bool(sources.content))
            self.config = replace(config, preset=preset)
            self.clip = ClipModel(config.model, config.pretrained)
            targets, weights = prompt_vectors(self.clip, sources.prompts, config.image_prompts)
            if sources.content:
                self.pictures = ContentPictures.read(sources.content, config.image_size, config.content_zoom)
        else:
            self.facts |= {key: saved.metadata[key] for key in asked}
            for key, value in asked.items():
                if value and value != self.facts[key]:
                    raise ValueError(f"{key} must be that of the run in {out}, {self.facts[key]}. Leave it out.")
            self.clip = ClipModel(config.model, config.pretrained)
            targets = saved.tensors.tensor("targets", (None, None))
            weights = saved.tensors.tensor("target_weights", targets.shape[:1])
            if self.facts["content"]:
                stored, _ = checkpoint.load(out / PICTURES_FILE)
                self.pictures = ContentPictures.restored(stored, config.image_size)
        self.facts["shown_steps"] = config.steps_max if self.facts["content"] else config.picture_steps
        self.kept = {"targets": targets, "target_weights": weights}
        self.distance = PromptDistance(targets, weights, config.distance)

    @classmethod
    def opening(cls, sources: ClipSources) -> list[str]:
        """The prompts as they were understood: "clock at 12:30" is a text with a weight of 30."""
        texts, weights = weights_of(sources.prompts)
        return [f"prompt {text!r}, weight {weight:g}" for text, weight in zip(texts, weights, strict=True)]

    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        return self.config.image_size, self.config.image_size

    def summed(self) -> int:
        """As `System.summed`; in the way of Deb and Petersen the loss is a mean."""
        return super().summed() if self.config.clip_scale == "cells" else 1

    def begin(self, model: NCA, saved: SavedRun | None) -> None:
        """Moves the content pictures to the device first."""
        self.pictures = None if self.pictures is None else self.pictures.to(model.device)
        super().begin(model, saved)
        self.shown = None if self.pictures is None else self.pictures.squares(1, self.generator("preview"))[0]

    def start(self, count: int, seed: int) -> Tensor:
        """Makes states of random squares of content pictures, if there are any."""
        if self.pictures is None:
            return super().start(count, seed)
        return self.pictures.start(self.nca, count, seed, self.noise(seed))

    def large_start(self, side: int, seed: int) -> Tensor:
        """Makes a state of a random square of a content picture, enlarged where need be, if there are any."""
        if self.pictures is None:
            return super().large_start(side, seed)
        return self.pictures.start(self.nca, 1, seed, self.noise(seed), side)

    def constants(self) -> dict[str, Tensor]:
        """The content pictures."""
        return {} if self.pictures is None else self.pictures.tensors()

    def objective(self) -> Objective:
        """The distance to the prompts, and what keeps pictures from being tricks."""
        return clip_objective(self.config, self.clip.to(self.nca.device), self.distance.to(self.nca.device), self.nca)

    def references(self) -> list[Tensor]:
        """The square that previews change, or the start state."""
        if self.shown is not None:
            return [self.shown]
        return [self.nca.to_rgb(self.start(1, self.derived("preview")))[0]]

    def preview(self) -> Tensor:
        """A square of a content picture, changed, or what grows from the start state."""
        if self.shown is None:
            return grown(self)
        return redrawn(self, self.shown, *self.shown.shape[1:], self.config.steps_max)

    def draw(self, out: Path, progress: bool, iterations: int, films: bool = True) -> None:
        """Writes a picture and a film of what grows, or of the first content picture, changed."""
        if self.pictures is None:
            draw_grown(self, out, progress, iterations, FILMED * films)
        else:
            image = shrunk(self.pictures.pictures[0].cpu() / 255, self.config.picture_size)
            draw_redrawn(self, image, self.config.steps_max, 2, out, progress, iterations, FILMED * films)

    def then(self, out: Path) -> list[str]:
        """How to draw more."""
        run = shlex.quote(str(out))
        if self.pictures is not None:
            return [f"nca-fast apply {run} PICTURE --out changed.{kind}" for kind in ("png", "mp4")]
        return [
            f"nca-fast render {run} --height 1024 --width 1024 --out big.png",
            f"nca-fast render {run} --out film.mp4",
        ]


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


def clip_objective(config: ClipConfig, model: ClipModel, distance: PromptDistance, nca: NCA) -> Objective:
    """Makes the losses of a batch of states.

    Args:
        config: The settings.
        model: Looks at the pictures; on the device of the automaton, as all that follows.
        distance: Of its vectors to the prompts.
        nca: The automaton; if it starts from pictures, its frozen channels hold them.

    Returns:
        (states [B, C, H, W], generator) -> the weighted losses by name; those of weight 0 are not computed.

    Raises:
        ValueError: As `AestheticHead`; content layers that are not among the feature maps.
    """
    device = nca.device
    head = None
    if config.aesthetic:
        head = AestheticHead(config.aesthetic, model.width, config.aesthetic_target).to(device)
    keeps_content = nca.start == "image" and config.content_weight > 0
    if keeps_content:
        dtype = network_dtype(device, config.precision)
        extractor = features.load(config.features, weights=config.weights, dtype=dtype).to(device)
        with torch.no_grad():
            maps = extractor(torch.zeros(1, 3, config.image_size, config.image_size, device=device))
        check_layers(config.content_layers, len(maps), config.features)
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

    def measure(states: Tensor, rgb: Tensor, views: Tensor) -> dict[str, Tensor]:
        # The mean over cutouts, summed over samples: times the cells, or as a mean over the whole batch.
        factor = rgb.shape[2] * rgb.shape[3] if config.clip_scale == "cells" else 1 / config.batch_size
        factor /= max(config.cutouts, 1)
        vectors = model(views / 2 if config.clip_input == "halved" else views, normalize=config.clip_input != "raw")

        def content() -> Tensor:
            with torch.no_grad():
                wanted = extractor(states[:, : nca.rule.frozen] + 0.5)
            return content_distance(extractor(rgb), wanted, config.content_layers)

        losses = {"clip": config.clip_weight * factor * distance(vectors).sum()}
        return losses | weighted(
            aesthetic=(config.aesthetic_weight * factor if head else 0, lambda: head(vectors).sum()),
            content=(config.content_weight if keeps_content else 0, content),
            overflow=(config.overflow_weight, lambda: regularizers.overflow(states)),
            range=(config.range_weight, lambda: regularizers.overflow(rgb, 0.0, 1.0)),
            contrast=(config.contrast_weight, lambda: flatness(rgb.clamp(0, 1), config.contrast)),
            fringe=(config.fringe_weight, lambda: fringes(rgb.clamp(0, 1))),
            variation=(config.variation_weight, lambda: regularizers.total_variation(rgb)),
        )

    captured = Captured(measure)

    def objective(states: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        rgb = nca.to_rgb(states, clamp=False)
        # Cutouts are of other sizes each time, so these are launched one by one.
        views = look(rgb.clamp(0, 1) if config.clip_input == "shown" else rgb, generator)
        return captured(states, rgb, views)

    return objective


def _check_start(preset: str, with_content: bool) -> None:
    """Raises ValueError for an automaton that needs a picture and has none, or has one and cannot use it."""
    starts_from_image = NCA.preset(preset).start == "image"
    if starts_from_image != with_content:
        rule = "pictures to change (content)" if starts_from_image else "no pictures to change"
        raise ValueError(f"preset {preset!r} must be used with {rule}. Choose another preset, or leave it out.")
