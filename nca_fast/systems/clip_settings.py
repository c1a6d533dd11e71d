"""What a CLIP-guided training learns, its settings and those of two published systems, and what its command says."""

import textwrap
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nca_fast.choices import ContentLossName, DistanceName, FeaturesName, small_words
from nca_fast.media.sources import check_picture_source
from nca_fast.prompts import check_words, weights_of
from nca_fast.training.settings import FeatureConfig
from nca_fast.training.task import Task

FILMED = 400  # steps of a film that nobody asked for
SMALLEST_CANVAS = 16
ClipInput = Literal["shown", "raw", "halved"]
ClipScale = Literal["cells", "mean"]


@dataclass(frozen=True)
class ClipConfig(FeatureConfig):
    """Settings of a CLIP-guided training."""

    image_prompts: tuple[str, ...] = ()
    """Pictures that the result should resemble: FILE or FILE:WEIGHT, beside the text prompts or instead of them."""
    model: str | None = None
    """CLIP model: a name of open_clip (ViT-B-32-quickgelu), local-dir:FOLDER or hf-hub:OWNER/NAME. None: the small one
    that comes with nca_fast; it knows 300 words about colours, patterns and what has them, and needs no
    download."""
    pretrained: str | None = None
    """Weights of a named model: a file, or a tag (openai, laion2b_s34b_b79k) of open_clip, cached or downloaded."""
    distance: DistanceName = "spherical"
    """How a picture is compared with a prompt: spherical (Petersen), cosine, or dot, of raw vectors (Deb)."""
    cutouts: int = 4
    """Random squares of each picture that CLIP looks at. 0: the whole picture (Deb, Petersen)."""
    cutout_min: float = 0.7
    """Smallest side of a square, as a share of the canvas's."""
    cutout_max: float = 1.0
    """Largest side of a square, as a share of the canvas's."""
    cutout_noise: float = 0.1
    """Noise of random strength up to this is added to each square, so that no fine trick can satisfy CLIP."""
    cutout_jitter: float = 0.1
    """Contrast and brightness of each square are changed at random, up to this share."""
    clip_input: ClipInput = "shown"
    """What CLIP is given: pictures as they are shown, clipped to 0 and 1, its mean and deviation taken off; unclipped
    with nothing taken off (raw: Deb); or unclipped and half as bright (halved: Petersen, by accident)."""
    clip_scale: ClipScale = "cells"
    """The CLIP loss is summed over samples and multiplied by the cells, as other losses are, or is their mean (Deb,
    Petersen)."""
    clip_weight: float = 1.0
    """Weight of the CLIP loss. (Petersen: 100.)"""
    range_weight: float = 1.0
    """Weight of the loss that keeps colours between 0 and 1, where they can be shown. (Deb, Petersen: 0.)"""
    contrast: float = 0.06
    """Contrast (standard deviation of the colours) below which a picture counts as flat; flat ones seldom recover."""
    contrast_weight: float = 1.0
    """Weight of the loss that raises flat pictures to that contrast; 0 for a prompt that wants one plain colour. (Deb,
    Petersen: 0.)"""
    fringe_weight: float = 0.05
    """Weight of the loss against coloured rims, which CLIP hardly sees: differences of neighbouring pixels in colour,
    not in brightness. (Deb, Petersen: 0.)"""
    aesthetic: str | None = None
    """File of a linear head that rates vectors of this CLIP model from 0 to 10 (.pth, .safetensors)."""
    aesthetic_target: float = 9.9
    """The rating that the pictures should get, 0 to 10."""
    aesthetic_weight: float = 0.5
    """Weight of the squared distance to that rating. Without a head there is none."""
    content_loss: ContentLossName = "structure"
    """With pictures to change: how they are compared with what becomes of them; by what is where, whatever its colours,
    with its colours (features), or by Gram matrices, which do not know where (Petersen)."""
    content_weight: float = 0.1
    """With pictures to change: weight of the content loss."""
    content_layers: tuple[int, ...] = (2, 3)
    """Sets of features in which contents are compared; 0 is the pixels themselves, the last the coarsest."""
    content_zoom: float = 4.0
    """The canvas shows squares of a picture with random sides from image_size to this times as many pixels."""
    features: FeaturesName = "random"
    """What the content loss compares: random and patches need no download, vgg16 and vgg19 are better."""
    variation_weight: float = 0.0
    """Weight of the loss that smooths: differences of neighbouring pixels."""
    image_size: int = 64
    """The canvas is a square of so many cells. (Deb: 128; Petersen: 224.)"""
    preset: str | None = None
    """Named automaton to train. None: clip, or with pictures to change image-manipulation."""
    iterations: int = 300
    """Length of the training. May be raised when a run is resumed. (Deb: 1000; Petersen: 4000.)"""
    learning_rate: float = 2e-3
    """Step size of the optimizer, before the milestones. (Petersen: 1e-3.)"""
    pool_size: int = 32
    """States that live on between iterations. (Deb: 256; Petersen: 400.)"""
    reseed_every: int = 8
    """After every so many iterations one state of the batch starts afresh. 0: never. (Petersen: 5.)"""
    steps_min: int = 32
    """Shortest rollout of an iteration. (Deb: 64.)"""
    steps_max: int = 64
    """Longest rollout of an iteration. (Deb, Petersen: 95.)"""
    picture_steps: int = 256
    """Steps of the rollout that ends as clip.png, at four times the training size; with pictures to change it takes
    steps_max."""
    picture_size: int = 512
    """With pictures to change: longer side of clip.png and clip.mp4, in pixels; smaller pictures are not enlarged."""
    video_steps: int | None = None
    """Steps shown in clip.mp4, at twice the training size. None: 400, unless that takes long beside the training. 0, or
    --no-video: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(image_size=SMALLEST_CANVAS, picture_size=SMALLEST_CANVAS, picture_steps=1)
        self.check_least(cutouts=0, cutout_noise=0, cutout_jitter=0, content_zoom=1, video_steps=0)
        self.check_least(clip_weight=0, aesthetic_weight=0, content_weight=0, variation_weight=0, range_weight=0)
        self.check_least(contrast_weight=0, fringe_weight=0)
        self.check_positive("contrast")
        self.check_choices(
            distance=DistanceName, clip_input=ClipInput, clip_scale=ClipScale, content_loss=ContentLossName
        )
        if not 0 < self.cutout_min <= self.cutout_max <= 1:
            raise ValueError(
                f"cutout_min and cutout_max must be in (0, 1] in this order, but got {self.cutout_min} and "
                f"{self.cutout_max}."
            )
        if not 0 <= self.aesthetic_target <= 10:
            raise ValueError(f"aesthetic_target must be from 0 to 10, but got {self.aesthetic_target}.")
        if self.pretrained is not None and self.model is None:
            raise ValueError(f"pretrained must go with a model, but got {self.pretrained!r} alone: name the model.")
        if not self.content_layers or min(self.content_layers) < 0:
            raise ValueError(f"content_layers must be one or more numbers from 0, but got {self.content_layers}.")


# What the two systems used. Departures: the gradient passes through all steps (see bptt_steps), the content loss is
# divided by its size, and three channels of Petersen's automaton are not blurred.
RECIPES = {
    "deb": ClipConfig(
        distance="dot",
        cutouts=0,
        clip_input="raw",
        clip_scale="mean",
        range_weight=0.0,
        contrast_weight=0.0,
        fringe_weight=0.0,
        image_size=128,
        iterations=1000,
        lr_milestones=(300, 500, 850),
        lr_gamma=0.4,
        pool_size=256,
        batch_size=4,
        reseed_every=8,
        steps_min=64,
        steps_max=95,
        state_limit=1e30,
    ),
    "petersen": ClipConfig(
        cutouts=0,
        clip_input="halved",
        clip_scale="mean",
        range_weight=0.0,
        contrast_weight=0.0,
        fringe_weight=0.0,
        clip_weight=100,
        content_loss="gram",
        content_weight=1.0,
        content_layers=(4,),
        features="vgg19",
        image_size=224,
        content_zoom=1.0,
        iterations=4000,
        learning_rate=1e-3,
        lr_milestones=(1000, 2000),
        pool_size=400,
        batch_size=4,
        reseed_every=5,
        steps_min=32,
        steps_max=95,
        state_limit=1e30,
    ),
}

RECIPE_HELP = """Begin with the settings of a published system instead of the defaults: deb grows out of noise by the
raw dot product of the whole picture, petersen changes pictures. Both want a real CLIP model, petersen VGG-19 too."""


@dataclass(frozen=True)
class ClipSources:
    """What a CLIP-guided training learns."""

    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="PROMPT [...]", help_behavior_hint="(not needed with --resume)"),
    ] = ()
    """What to grow: TEXT, or TEXT:WEIGHT; a negative weight pushes away ("noise:-0.3")."""
    content: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE_OR_FOLDER [...]")] = ()
    """Pictures to change: files, folders, skimage:astronaut ... None: grow out of noise."""

    def missing(self, config: ClipConfig) -> list[str]:
        """Names what a run cannot begin without and is not given."""
        return [] if self.prompts or config.image_prompts else ["a prompt"]

    def check(self, config: ClipConfig) -> None:
        """Raises ValueError for a picture that is not there, and for words that the small model does not know."""
        for name in self.content:
            check_picture_source(name, folders=True, what="content")
        texts, _ = weights_of(self.prompts)
        for text in texts if config.model is None else ():
            check_words(text)
        for file in weights_of(config.image_prompts)[0]:
            check_picture_source(file, what="image_prompts")


HELP = f"""Learn to grow what a sentence says, or to change pictures until they fit it.

For example, with the small CLIP model that comes along, which knows colours and patterns:
    nca-fast clip "thin blue horizontal stripes" --out runs/stripes
    nca-fast clip "red bricks" "noise:-0.3" --out runs/bricks
    nca-fast clip "orange leopard fur" --content skimage:chelsea --out runs/leopard

With a real one, which is downloaded once (350 MB) and wants a larger canvas and patience on a CPU:
    nca-fast clip "underwater bioluminescence" --model ViT-B-32-quickgelu --pretrained openai --image-size 128 \\
        --out runs/sea

Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
    nca-fast clip --out runs/stripes --resume

On two processes: torchrun --nproc-per-node 2 -m nca_fast clip "red bricks" --batch-size 2 --out runs/bricks

DIR then holds clip.png, clip.mp4, preview.png (the start, and what was grown of it on the way), model.safetensors
(for `nca-fast render`, or with --content for `nca-fast apply`), log.jsonl and training.safetensors (for --resume).

The small model knows these words:
{textwrap.indent(textwrap.fill(" ".join(small_words()), 100), " " * 4)}
"""

CLIP = Task(
    name="clip",
    help=HELP,
    Sources=ClipSources,
    Config=ClipConfig,
    home="nca_fast.systems.clip:Clip",
    main=(
        "prompts",
        "content",
        "image_prompts",
        "iterations",
        "model",
        "pretrained",
        "image_size",
        "picture_steps",
        "seed",
    ),
    recipes=RECIPES,
    recipe_help=RECIPE_HELP,
)
