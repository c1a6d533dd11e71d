"""Texture synthesis: an automaton that grows, out of nothing and for ever, the texture of one picture.

The loss compares statistics of the pictures, never their cells, so the automaton is free to lay its own bricks.

Source: Niklasson, Mordvintsev, Randazzo and Levin, "Self-Organising Textures", Distill 2021, and its PyTorch notebook.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor
from torch.nn import functional as F

from nca_fast import features
from nca_fast.devices import network_dtype
from nca_fast.losses import regularizers, style, weighted
from nca_fast.media.images import load_image, source_name
from nca_fast.nca import NCA
from nca_fast.systems.drawing import draw_grown, grown, next_render
from nca_fast.training.capture import Captured
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import SavedRun
from nca_fast.training.settings import FREE_ON_RESUME, StyleLossConfig
from nca_fast.training.system import PoolSystem, given_or_saved

SMALLEST_IMAGE = 16  # VGG halves a picture four times


@dataclass(frozen=True)
class TextureConfig(StyleLossConfig):
    """Settings of a texture training.

    The defaults are the recipe of the Distill notebook, changed to give the best picture after minutes on a few CPU
    cores (see bench/texture_defaults.py): many cheap iterations, each of one state, in place of few with a batch.
    """

    image_crop: int | None = None
    """Learn only a square of so many pixels from the middle of the picture, for details that shrinking would lose.
    None: learn all of it."""
    image_size: int = 128
    """What is learned is shrunk until its longer side has this many pixels; the canvas is a square of so many cells."""
    preset: str = "texture"
    """Named automaton to train: its channels, hidden widths and filters."""
    iterations: int = 2000
    """Length of the training. May be raised when a run is resumed. (The notebook: 5000.)"""
    learning_rate: float = 4e-3
    """Step size of Adam, before the milestones. With the notebook's 1e-3 short runs get nowhere."""
    disturb: float = 0.5
    """As in other trainings; without it what is learned at this learning rate blows up on large canvases."""
    pool_size: int = 32
    """States that live on between iterations. They take memory and disk: 0.8 MB each at 128 x 128 cells."""
    picture_steps: int = 256
    """Steps of the rollout that ends as texture.png, at four times the training size."""
    video_steps: int = 1890
    """Steps shown in texture.mp4, at twice the training size; 1890 make 10 seconds. 0: no video."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(image_size=SMALLEST_IMAGE, image_crop=SMALLEST_IMAGE, picture_steps=1, video_steps=0)


@dataclass(frozen=True)
class TextureSources:
    """What a texture training learns."""

    image: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(not needed with --resume)"),
    ] = None
    """Picture to learn: a file, or skimage:brick, skimage:grass, skimage:gravel, skimage:coffee ..."""


class Texture(PoolSystem):
    """Learn a texture from one picture, and draw and film what was learned.

    For example, with a picture that comes with scikit-image:
        nca-fast texture skimage:brick --out runs/brick

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast texture --out runs/brick --resume

    DIR then holds texture.png, texture.mp4, preview.png (the target and what was grown on the way), model.safetensors
    (for `nca-fast render` and NCA.from_pretrained), log.jsonl and training.safetensors (for --resume).
    """

    name = "texture"
    Sources, Config = TextureSources, TextureConfig
    free_on_resume = (*FREE_ON_RESUME, "picture_steps", "video_steps")
    files = ("texture.png", "texture.mp4")

    def __init__(self, config: TextureConfig, sources: TextureSources, saved: SavedRun | None, out: Path):
        self.config = config

        def read(image: str | Path | Tensor) -> Tensor:
            return read_target(image, config.image_crop, config.image_size)

        self.kept = {"target": given_or_saved("image", sources.image, read, saved, out)}
        self.facts = {"image": saved.metadata["image"] if saved else source_name(sources.image)}

    def model(self) -> NCA:
        """Makes the automaton. Raises ValueError for a preset that needs a picture."""
        nca = super().model()
        if nca.start == "image":
            raise ValueError(
                f"preset must be an automaton that needs no picture to start from, but got {self.config.preset!r}."
            )
        return nca

    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        return self.config.image_size, self.config.image_size

    def objective(self) -> Objective:
        """The style loss, and the overflow loss."""
        config, nca = self.config, self.nca
        dtype = network_dtype(nca.device, config.precision)
        extractor = features.load(config.features, weights=config.weights, dtype=dtype).to(nca.device)
        distance = style.load(config.loss, extractor, self.kept["target"], config.projections)

        def measure(states: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
            rgb = nca.to_rgb(states, clamp=False)
            return weighted(
                style=(1.0, lambda: distance(extractor(rgb), drawn=drawn)),
                overflow=(config.overflow_weight, lambda: regularizers.overflow(states)),
            )

        captured = Captured(measure)
        return lambda states, generator: captured(states, drawn=distance.draw(generator))

    def references(self) -> list[Tensor]:
        """The texture."""
        return [self.kept["target"]]

    def preview(self) -> Tensor:
        """What grows from the start state, and not from what the pool holds."""
        return grown(self)

    def draw(self, out: Path, progress: bool) -> None:
        """Writes a picture and a film of what grows."""
        draw_grown(self, out, progress)

    def notes(self, out: Path, figures: Mapping[str, float]) -> list[str]:
        """How to draw more."""
        return [next_render(out)]


def read_target(image: str | Path | Tensor, crop: int | None, size: int) -> Tensor:
    """Opens the picture to learn, [3, h, w] in [0, 1]: of a file the middle, when asked for, shrunk to the canvas."""
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
