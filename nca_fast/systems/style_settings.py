"""What a style training learns, its settings, and what its command says."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, get_args

import tyro

from nca_fast.choices import ContentLossName, FeaturesName
from nca_fast.media.sources import check_picture_source
from nca_fast.training.settings import StyleLossConfig
from nca_fast.training.task import Task

FILMED = 128  # steps of a film that nobody asked for
SMALLEST_STYLE = 16  # VGG halves a picture four times
STROKE_WIDTH = 3.0  # cells, as `strokes.stroke_width` measures it, where the size of the style is chosen
STYLE_SIZES = 64, 256  # bounds of what is chosen
Preset = Literal["strokes", "style", "style-two-filters", "image-manipulation"]
ColorLossName = Literal["transport", "histogram"]
Operator = Literal["sobel", "scharr", "prewitt"]


@dataclass(frozen=True)
class StyleConfig(StyleLossConfig):
    """Settings of a style training.

    The defaults give a style that one sees on pictures that one still recognises after minutes on a CPU, with features
    that need no download (see bench/NOTES.md), and that lasts for hundreds of steps: small canvases, one state an
    iteration, short rollouts before long ones. Brackets say what the published systems do, where that is known.
    """

    style_size: int | None = None
    """The style picture is shrunk until its longer side has this many pixels. Smaller: finer strokes. None: found from
    the picture, so that its strokes are some cells wide and an automaton can draw them."""
    style_scale: float = 1.0
    """A factor on the size that is found: of the strokes in what is redrawn, against what it shows. Above 1 they are
    larger, as far as the style picture has pixels for it."""
    content_size: int = 64
    """The canvas is a square of so many cells, and shows a square of a content picture."""
    content_zoom: float = 1.5
    """Pictures are shrunk until their shorter side has this times content_size pixels, and squares with random sides
    from content_size to that are cut from them. 1: whole pictures, as wide as they are high. Squares that show little,
    as large zooms cut them, cannot look like the style but by noise."""
    preset: Preset = "strokes"
    """Named automaton to train: its channels, hidden widths and filters. The published ones are four times as slow."""
    filters: tuple[Operator, ...] | None = None
    """Gradient filters in place of the preset's, each in both directions: sobel, scharr, prewitt. Two Laplacians come
    with them."""
    init_gain: float | None = None
    """A factor on PyTorch's default weights and biases to begin with. None: 1, and zeros in the last layer, so that
    training begins with pictures as they are. (Petersen: 0.15.)"""
    iterations: int = 1500
    """Length of the training. May be raised when a run is resumed. (Petersen: 4000.)"""
    learning_rate: float = 4e-3
    """Step size of the optimizer, before the milestones. (Petersen: 1e-3.)"""
    lr_milestones: tuple[int, ...] | None = None
    """Iterations at which the learning rate is lowered. None: where the long rollouts begin, which run away at the rate
    that suits short ones, and after nine tenths of the run."""
    reseed_every: int = 4
    """After every so many iterations one state of the batch starts afresh, from a new picture. 0: never. (Petersen: 5,
    with batches of 4.)"""
    pool_size: int = 32
    """States that live on between iterations. They take memory and disk: 0.3 MB each at 64 x 64 cells. (Petersen:
    400.)"""
    steps_min: int = 32
    """Shortest rollout of an iteration, after the early ones. (Petersen, Hinno: 32.)"""
    steps_max: int = 64
    """Longest rollout of an iteration, after the early ones. (Petersen: 95, Hinno: 96.)"""
    disturb: float = 0.25
    """Share of the states of which a disc is made strange before a rollout. Without it what is learned at this learning
    rate may blow up on large pictures."""
    early_iterations: int | None = None
    """So many iterations at the beginning are short, and learn the style in a fraction of the time; the long ones after
    them learn to keep it for hundreds of steps. None: seven tenths of the run. (Petersen, Hinno: 0.)"""
    early_steps_min: int = 8
    """Shortest rollout of the early iterations."""
    early_steps_max: int = 24
    """Longest rollout of the early iterations."""
    style_weight: float = 1.0
    """Weight of the style loss."""
    guide_weight: float = 1.0
    """Weight of the loss that keeps colours where they are, seen from afar: the means of small squares shall be those
    of the content picture, brought to the style's colours by the affine map that moves them least."""
    guide_size: int = 8
    """Side of these squares, in cells. Larger ones leave more room for strokes."""
    content_loss: ContentLossName = "structure"
    """How contents are compared: by what is where, whatever its colours, with its colours (features), or, as Petersen
    does, by Gram matrices, which do not know where."""
    content_layers: tuple[int, ...] = (2, 3)
    """Sets of features in which contents are compared; 0 is the pixels themselves, the last the coarsest."""
    content_weight: float = 0.0
    """Weight of the content loss, which compares features. Where the guide has none, 0.3 is a good one."""
    color_loss: ColorLossName = "transport"
    """How colours are compared: all three channels, by sliced optimal transport, or, as Petersen does, hue and
    saturation in a histogram."""
    color_weight: float = 1.0
    """Weight of the color loss."""
    color_bins: int = 32
    """Bins of a color histogram along each of its two axes, with --color-loss histogram. (Petersen: 256.)"""
    color_sigma: float = 0.2
    """Width of the kernel that counts a color into bins, in units of log ratios. (Petersen: 0.02.)"""
    variation_weight: float = 0.0
    """Weight of the loss that smooths: differences of neighbouring pixels."""
    picture_steps: int = 96
    """Steps after which pictures are restyled: those of preview.png and restyled.png, and of `nca-fast apply`."""
    picture_size: int = 512
    """Longer side of restyled.png and restyled.mp4, in pixels; a smaller picture is not enlarged."""
    video_steps: int | None = None
    """Steps shown in restyled.mp4. None: 128, unless that takes long beside the training. 0, or --no-video: none."""

    offline: ClassVar[FeaturesName] = "dictionary"

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = ("style_weight", "guide_weight", "content_weight", "color_weight", "variation_weight")
        self.check_least(**dict.fromkeys(weights, 0), video_steps=0, picture_steps=1, guide_size=1)
        self.check_least(content_zoom=1, color_bins=2)
        self.check_least(early_iterations=0, early_steps_min=1, early_steps_max=self.early_steps_min)
        self.check_least(style_size=SMALLEST_STYLE, content_size=SMALLEST_STYLE, picture_size=SMALLEST_STYLE)
        self.check_positive("color_sigma", "style_scale", *(["init_gain"] if self.init_gain is not None else []))
        self.check_choices(preset=Preset, content_loss=ContentLossName, color_loss=ColorLossName)
        if self.guide_size > self.content_size:
            raise ValueError(f"guide_size must be at most content_size={self.content_size}, but got {self.guide_size}.")
        unknown = set(self.filters or ()) - set(get_args(Operator))
        if unknown or self.filters == ():
            raise ValueError(f"filters must be one or more of {', '.join(get_args(Operator))}, but got {self.filters}.")
        if not self.content_layers or min(self.content_layers) < 0:
            raise ValueError(f"content_layers must be one or more numbers from 0, but got {self.content_layers}.")
        if not any(getattr(self, name) for name in weights[:4]):
            raise ValueError(
                "style_weight, guide_weight, content_weight or color_weight must be above 0, but all are 0."
            )

    def resolved(self) -> "StyleConfig":
        """As `RunConfig.resolved`, with a number of early iterations."""
        early = self.iterations * 7 // 10 if self.early_iterations is None else self.early_iterations
        milestones = self.lr_milestones
        if milestones is None:
            milestones = tuple(sorted({max(1, early), max(1, self.iterations * 9 // 10)}))
        return replace(super().resolved(), early_iterations=early, lr_milestones=milestones)

    def steps_at(self, iteration: int) -> tuple[int, int]:
        """The shortest and the longest rollout of an iteration, in steps, of resolved settings."""
        if iteration < self.early_iterations:
            return self.early_steps_min, self.early_steps_max
        return self.steps_min, self.steps_max


@dataclass(frozen=True)
class StyleSources:
    """What a style training learns."""

    style: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="STYLE", help_behavior_hint="(not needed with --resume)"),
    ] = None
    """Picture whose style to learn: a file, or skimage:immunohistochemistry, skimage:gravel ..."""
    content: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="IMAGE_OR_FOLDER [...]", help_behavior_hint="(not needed with --resume)"),
    ] = ()
    """Pictures to learn it on: files, folders, skimage:astronaut ... The more they differ, the better."""

    def missing(self, config: StyleConfig) -> list[str]:
        """Names what a run cannot begin without and is not given."""
        return ["style"] * (self.style is None) + ["content"] * (not self.content)

    def check(self, config: StyleConfig) -> None:
        """Raises ValueError for a picture that is not there."""
        if self.style is not None:
            check_picture_source(self.style, what="style")
        for name in self.content:
            check_picture_source(name, folders=True, what="content")


HELP = """Learn to redraw any picture in the style of one.

For example, with pictures that come with scikit-image:
    nca-fast style skimage:immunohistochemistry --content skimage:astronaut skimage:chelsea --out runs/tissue
    nca-fast apply runs/tissue photo.jpg --out photo-tissue.png

Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
    nca-fast style --out runs/tissue --resume

DIR then holds restyled.png and restyled.mp4 (the first content picture), preview.png (the style, a square of a
content picture, and what became of it on the way), model.safetensors (for `nca-fast apply` and
NCA.from_pretrained), log.jsonl, and training.safetensors and pictures.safetensors (for --resume).
"""

STYLE = Task(
    name="style",
    help=HELP,
    Sources=StyleSources,
    Config=StyleConfig,
    home="nca_fast.systems.style:Style",
    main=(
        "style",
        "content",
        "iterations",
        "style_size",
        "style_scale",
        "content_weight",
        "features",
        "picture_steps",
        "seed",
    ),
)
