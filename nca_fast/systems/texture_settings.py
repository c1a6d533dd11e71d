"""What a texture training learns, its settings, and what its command says."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import tyro

from nca_fast.choices import FeaturesName, GridName
from nca_fast.map_names import parse_maps
from nca_fast.media.sources import check_picture_source
from nca_fast.training.settings import StyleLossConfig
from nca_fast.training.task import Task

FILMED = 1890  # steps of a film that nobody asked for
SMALLEST_IMAGE = 16  # VGG halves a picture four times


@dataclass(frozen=True)
class TextureConfig(StyleLossConfig):
    """Settings of a texture training.

    The defaults are the recipe of the Distill notebook, changed to give the best picture after minutes on a few CPU
    cores (see bench/texture_defaults.py): many cheap iterations, each of one state, in place of few with a batch.
    """

    image_crop: int | None = None
    """Learn a square of so many pixels from the middle of the picture, or all of a shorter side. None: found from the
    picture, so that there are some 12 cells from one thing in it to the next."""
    image_size: int = 64
    """The square that is learned is shrunk to so many pixels on a side, one for a cell. More show larger structure, and
    take longer."""
    canvas_size: int | None = None
    """The canvas in training is a square of so many cells on a side. None: three quarters of image_size, because more
    iterations on fewer cells teach more in the same time: what they should look like is known from the whole square."""
    preset: str = "texture"
    """Named automaton to train: its channels, hidden widths and filters."""
    grid: GridName = "square"
    """Cells are squares, or hexagons, as which they are then drawn. (nca-fast render --grid hex shows what was trained
    on squares on hexagons, too.)"""
    iterations: int = 2000
    """Length of the training. May be raised when a run is resumed. (The notebook: 5000.)"""
    learning_rate: float = 4e-3
    """Step size of the optimizer, before the milestones. With the notebook's 1e-3 short runs get nowhere."""
    lr_cooldown: float = 0.2
    """The last share of the run, 0 to 1, in which the learning rate also falls in a line to 0, so that the weights
    settle. It does so again before the new end of a run that is given more iterations."""
    disturb: float = 0.5
    """Share of the states of which a disc is made strange before a rollout. Without it what is learned at this learning
    rate blows up on large canvases."""
    pool_size: int = 32
    """States that live on between iterations, so many of each texture. They take memory and disk: 0.1 MB each at
    48 x 48 cells, and some more where several textures are learned."""
    picture_steps: int = 256
    """Steps of the rollout that ends as texture.png, which has four times image_size cells on a side, or less where
    that takes long beside the training."""
    video_steps: int | None = None
    """Steps shown in texture.mp4, at twice image_size. None: 1890, which make 10 seconds, unless that takes long beside
    the training. 0, or --no-video: none."""

    offline: ClassVar[FeaturesName] = "dictionary"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(**dict.fromkeys(("image_size", "image_crop", "canvas_size"), SMALLEST_IMAGE))
        self.check_least(picture_steps=1, video_steps=0)
        self.check_choices(grid=GridName)

    def resolved(self) -> "TextureConfig":
        """As `StyleLossConfig.resolved`, with a size of the canvas."""
        config = super().resolved()
        cells = max(SMALLEST_IMAGE, self.image_size * 3 // 4)
        return config if self.canvas_size is not None else replace(config, canvas_size=cells)


@dataclass(frozen=True)
class TextureSources:
    """What a texture training learns."""

    image: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(not needed with --resume)"),
    ] = None
    """Picture to learn: a file, or skimage:brick, skimage:grass, skimage:gravel, skimage:coffee ..."""
    more: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[IMAGE ...]")] = ()
    """Further pictures, up to eight in all, for one automaton that knows all of them. An iteration takes --batch-size
    states of each, so that the training takes as long as those of so many automata."""
    names: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ()
    """What several textures are called. None: as their files, without folder and ending."""
    maps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=IMAGE [NAME=IMAGE ...]")] = ()
    """Maps of the surface that IMAGE shows, of its size, to be learned with it: normal, height, roughness, metallic,
    occlusion, opacity, emission, specular. What draws the run then draws them too."""

    def missing(self, config: TextureConfig) -> list[str]:
        """Names what a run cannot begin without and is not given."""
        return [] if self.image is not None else ["image"]

    def check(self, config: TextureConfig) -> None:
        """Raises ValueError for a picture or map that is not there."""
        for name in (self.image, *self.more):
            if name is not None:
                check_picture_source(name)
        for name in parse_maps(self.maps).values():
            check_picture_source(name, what="a map")


HELP = """Learn a texture from one picture, and draw and film what was learned.

For example, with a picture that comes with scikit-image:
    nca-fast texture skimage:brick --out runs/brick

Several with one automaton, which draws each, blends of them, and what a map of colours says:
    nca-fast texture skimage:brick skimage:grass skimage:gravel --out runs/ground
    nca-fast render runs/ground --texture grass --height 512 --width 512 --steps 300 --out grass.png

With maps of the same surface; what is drawn is a set that tiles, wall.png, wall_normal.png and wall_height.png:
    nca-fast texture albedo.png --maps normal=normal.png height=height.png --out runs/wall
    nca-fast render runs/wall --height 512 --width 512 --steps 300 --out wall.png

In NoiseNCA's way, for other scales than that of the training:
    nca-fast texture skimage:brick --recipe noise --out runs/noise
    nca-fast render runs/noise --scale 0.5 --height 512 --width 512 --steps 300 --out small.png

Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
    nca-fast texture --out runs/brick --resume

DIR then holds texture.png, texture.mp4, preview.png (the target and what was grown on the way), model.safetensors
(for `nca-fast render` and NCA.from_pretrained), log.jsonl and training.safetensors (for --resume).
"""

# As in NoiseNCA, the automaton begins with noise, so that all of its cells may fire in every step, and what it draws is
# a solution of a differential equation, at whatever distance of cells and length of steps. With all cells firing the
# learning rate of half of them is too large: losses jump up by orders of magnitude.
NOISE = TextureConfig(preset="noise-nca", learning_rate=2e-3)
RECIPE_HELP = """Begin with other settings than the defaults. noise: as NoiseNCA, from noise instead of zeros, and all
cells fire in every step, which suits other scales (--scale of nca-fast render)."""

TEXTURE = Task(
    name="texture",
    help=HELP,
    Sources=TextureSources,
    Config=TextureConfig,
    home="nca_fast.systems.texture:Texture",
    main=("image", "more", "iterations", "image_size", "image_crop", "features", "loss", "picture_steps", "seed"),
    recipes={"noise": NOISE},
    recipe_help=RECIPE_HELP,
)
