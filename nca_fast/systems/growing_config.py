"""The settings of a growing automaton's training."""

from dataclasses import dataclass

from nca_fast.training.settings import FREE_ON_RESUME as LOOP_FREE
from nca_fast.training.settings import TrainingConfig

FREE_ON_RESUME = (*LOOP_FREE, "video_steps")


@dataclass(frozen=True)
class GrowingConfig(TrainingConfig):
    """Settings of a growing automaton's training.

    The recipe of the Distill notebook with a smaller canvas, pool and batch: its 8,000 iterations of 8 states out of
    1,024, three of them damaged, are for a GPU.
    """

    image_size: int = 32
    """What is learned is shrunk until its longer side has this many pixels. (The notebook: 40.)"""
    image_margin: int = 6
    """Empty cells on each side of the picture. (The notebook: 16.)"""
    preset: str = "growing"
    """Named automaton to train: its channels, hidden widths and filters."""
    iterations: int = 3000
    """Length of the training. May be raised when a run is resumed."""
    learning_rate: float = 2e-3
    """Step size of Adam, before the milestones."""
    pool_size: int = 128
    """States that live on between iterations. The one that is worst in a batch is replaced by a single cell."""
    batch_size: int = 4
    """States that an iteration takes from the pool."""
    damage: int = 2
    """So many of the best states of a batch lose a circle before they go on. 0: what is learned need not regrow."""
    reseed_every: int = 0
    """So often the first state of the batch starts afresh too. 0: never; the worst does in each iteration."""
    steps_min: int = 64
    """Shortest rollout of an iteration."""
    steps_max: int = 96
    """Longest rollout of an iteration."""
    overflow_weight: float = 0.0
    """Weight of a loss that keeps all channels of all cells between -1 and 1. The notebook has none."""
    video_steps: int = 512
    """Length of growing.mp4, in which the picture grows, is wounded and regrows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(image_size=1, image_margin=0, damage=0, video_steps=4)
        if self.damage >= self.batch_size:
            raise ValueError(f"damage must be below batch_size={self.batch_size}, but got {self.damage}.")
