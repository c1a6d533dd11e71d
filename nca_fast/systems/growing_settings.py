"""What a growing automaton learns, the settings of its training, and what its command says."""

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from nca_fast.choices import OptimizerName
from nca_fast.media.sources import check_picture_source
from nca_fast.training.settings import PoolConfig
from nca_fast.training.task import Task

FILMED = 512  # steps of a film that nobody asked for
GROWTH = (1 / 7, 5 / 7)  # shares of the early iterations between which the picture grows
MILESTONES = (40, 65, 80, 90, 95)  # percent of a run at which the learning rate is lowered


@dataclass(frozen=True)
class GrowingConfig(PoolConfig):
    """Settings of a growing automaton's training.

    The recipe of the Distill notebook with a smaller canvas, pool and batch, and a smaller picture and short rollouts
    first: its 8,000 iterations of 8 states out of 1,024, three of them damaged, are for a GPU.
    """

    image_size: int = 32
    """What is learned is shrunk until its longer side has this many pixels. (The notebook: 40.)"""
    image_margin: int = 6
    """Empty cells on each side of the picture. (The notebook: 16.)"""
    preset: str = "growing"
    """Named automaton to train: its channels, hidden widths and filters."""
    iterations: int = 3000
    """Length of the training. May be raised when a run is resumed."""
    optimizer: OptimizerName = "muon"
    """What takes the steps. With muon (`optimizers.Muon`) the same time leaves a fifth of the error that adam leaves.
    (The notebook: adam, at 2e-3.)"""
    learning_rate: float = 1e-2
    """Step size of the optimizer, before the milestones. 4e-3 suits adam."""
    lr_milestones: tuple[int, ...] | None = None
    """Iterations at which the learning rate is lowered. None: after 40, 65, 80, 90 and 95 % of the run."""
    lr_gamma: float = 0.5
    """Factor by which each milestone lowers the learning rate."""
    pool_size: int = 64
    """States that live on between iterations. The one that is worst in a batch is replaced by a single cell."""
    batch_size: int = 3
    """States that an iteration takes from the pool. More make it slower, and hardly better."""
    damage: int = 1
    """So many of the best states of a batch lose a circle before they go on. 0: what is learned need not regrow."""
    reseed_every: int = 0
    """After every so many iterations the first state of the batch starts afresh too. 0: never; the worst does in each
    iteration."""
    early_iterations: int | None = None
    """So many iterations are short, as many steps as the picture is pixels wide to half more, and begin with a smaller
    picture; in the others it learns to stay. None: seven tenths of the run. 0: none, as in the notebook."""
    early_size: int | None = None
    """Pixels of the longer side in the first seventh of the early iterations. It grows to --image-size until five
    sevenths of them are done: what is small is learned soon, and then enlarged bit by bit. None: half of it."""
    steps_min: int = 64
    """Shortest rollout of an iteration."""
    steps_max: int = 96
    """Longest rollout of an iteration."""
    overflow_weight: float = 0.0
    """Weight of a loss that keeps all channels of all cells between -1 and 1. The notebook has none."""
    state_limit: float = 50.0
    """A state that has run away, with a value beyond plus or minus this, starts afresh. (No loss keeps hidden channels
    small: those of a healthy automaton reach 7.)"""
    video_steps: int | None = None
    """Steps shown in growing.mp4, in which the picture grows, is wounded and regrows. None: 512, unless that takes long
    beside the training. 0, or --no-video: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(image_size=1, image_margin=0, damage=0, video_steps=0, early_iterations=0, early_size=1)
        if self.early_size is not None and self.early_size > self.image_size:
            raise ValueError(f"early_size must be at most image_size={self.image_size}, but got {self.early_size}.")
        if self.damage >= self.batch_size:
            raise ValueError(f"damage must be below batch_size={self.batch_size}, but got {self.damage}.")

    def resolved(self) -> "GrowingConfig":
        """As `RunConfig.resolved`, with a number of early iterations and their smallest picture, and milestones that
        end a run in fine steps."""
        early = self.iterations * 7 // 10 if self.early_iterations is None else self.early_iterations
        size = (self.image_size + 1) // 2 if self.early_size is None else self.early_size
        milestones = self.lr_milestones
        if milestones is None:
            milestones = tuple(sorted({max(1, self.iterations * percent // 100) for percent in MILESTONES}))
        return replace(self, early_iterations=early, early_size=size, lr_milestones=milestones)

    def size_at(self, iteration: int) -> int:
        """Pixels of the longer side that an iteration learns, of resolved settings. They grow by two, one on each side,
        so that the middle stays where it is."""
        if iteration >= self.early_iterations:
            return self.image_size
        first, last = GROWTH
        share = (iteration / self.early_iterations - first) / (last - first)
        missing = (self.image_size - self.early_size) * (1 - min(1, max(0, share)))
        return self.image_size - 2 * round(missing / 2)

    def steps_at(self, iteration: int) -> tuple[int, int]:
        """The shortest and the longest rollout of an iteration, in steps, of resolved settings."""
        if iteration < self.early_iterations:
            size = self.size_at(iteration)
            return min(size, self.steps_min), min(size * 3 // 2, self.steps_max)
        return self.steps_min, self.steps_max


@dataclass(frozen=True)
class GrowingSources:
    """What a growing automaton learns."""

    image: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(not needed with --resume)"),
    ] = None
    """Picture file to grow; it should have a transparent background."""

    def missing(self, config: GrowingConfig) -> list[str]:
        """Names what a run cannot begin without and is not given."""
        return [] if self.image is not None else ["image"]

    def check(self, config: GrowingConfig) -> None:
        """Raises ValueError for a picture that is not there."""
        if self.image is not None:
            check_picture_source(self.image)


HELP = """Learn to grow a small picture out of one cell, to keep it, and to mend it after damage.

For example, with the ladybird that comes with the source code, or any picture with a transparent background:
    nca-fast grow examples/ladybird.png --out runs/ladybird

Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
    nca-fast grow --out runs/ladybird --resume

DIR then holds regrowth.png (the target, what was grown, wounded, and regrown), growing.mp4, preview.png (the
target and what was grown on the way), model.safetensors (for `nca-fast render` and NCA.from_pretrained), log.jsonl
and training.safetensors (for --resume).
"""

GROW = Task(
    name="grow",
    help=HELP,
    Sources=GrowingSources,
    Config=GrowingConfig,
    home="nca_fast.systems.growing:Growing",
    main=("image", "iterations", "image_size", "image_margin", "damage", "batch_size", "video_steps", "seed"),
)
