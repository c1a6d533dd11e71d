"""What a VAE-NCA learns, the settings of its training, and what its command says."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nca_fast.choices import VAEPreset
from nca_fast.media.sources import check_data_set
from nca_fast.training.settings import RunConfig, check_circles
from nca_fast.training.task import Task

Reconstruction = Literal["mse", "bce"]


@dataclass(frozen=True)
class VAEConfig(RunConfig):
    """Settings of a VAE-NCA training.

    The defaults learn scikit-learn's digits within 15 minutes on two CPU cores. The published code trains MNIST for
    20,000 iterations of 64 pictures, with a learning rate of 1e-4 and binary cross-entropy.
    """

    preset: VAEPreset = "vae-mnist"
    """Filters, widths, latent vector and number of steps of the paper's three models."""
    batch_size: int = 16
    """Pictures in an iteration."""
    learning_rate: float = 1e-3
    """Step size of the optimizer, before the milestones."""
    warm_up: int = 50
    """The learning rate rises over so many iterations. Else the first steps may kill all states, which then have no
    gradient any more. 0: not at all, as in the published code."""
    gradient_limit: float = 1.0
    """A gradient that is longer than this, all parameters together, is scaled down to it."""
    beta: float = 1e-5
    """Weight of the distance of the latent vectors from the standard normal distribution, beside the mean error of a
    pixel. More makes better samples from the prior and worse reconstructions."""
    loss: Reconstruction = "mse"
    """What a wrong pixel costs: the square of the error, or binary cross-entropy (the published MNIST code)."""
    deterministic: bool = False
    """Leave out the variance: the published code, whose prior is a penalty on the squared latent vector."""
    damage: int = 0
    """Erase so many circles from each picture that the encoder sees, so that the model learns to repair pictures."""
    damage_radius: float = 0.3
    """Radius of the largest of them; 1 is half the side of the picture."""
    video_steps: int | None = None
    """Steps shown in growth.mp4. None: twice as many as in training. 0, or --no-video: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(beta=0, video_steps=0, warm_up=0)
        check_circles(self.damage)
        self.check_positive("gradient_limit")
        if not 0 < self.damage_radius <= 1:
            raise ValueError(f"damage_radius must be above 0 and at most 1, but got {self.damage_radius}.")
        self.check_choices(preset=VAEPreset, loss=Reconstruction)

    def steps_at(self, iteration: int) -> tuple[int, int]:
        """As `RunConfig.steps_at`: all are as long as the preset says."""
        from nca_fast.systems.vae.architecture import ARCHITECTURES  # loads torch

        steps = ARCHITECTURES[self.preset].steps
        return steps, steps


@dataclass(frozen=True)
class VAESources:
    """What a VAE-NCA learns."""

    dataset: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="DATASET", help_behavior_hint="(not needed with --resume)"),
    ] = None
    """Pictures to learn: digits, faces, or a folder."""

    def missing(self, config: VAEConfig) -> list[str]:
        """Names what a run cannot begin without and is not given."""
        return [] if self.dataset is not None else ["a data set"]

    def check(self, config: VAEConfig) -> None:
        """Raises ValueError for a data set that is not there."""
        if self.dataset is not None:
            check_data_set(self.dataset)


HELP = """Learn a set of pictures: a network that looks at a picture and writes the rule of an automaton that grows it.

For example, with digits or faces that come with scikit-learn and scikit-image, with MNIST's IDX files or CIFAR-10's
binary version in a folder, or with a folder of pictures:
    nca-fast vae digits --out runs/digits
    nca-fast vae ~/mnist --batch-size 64 --out runs/mnist
    nca-fast vae photos --preset vae-face --damage 4 --out runs/photos

Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
    nca-fast vae --out runs/digits --resume

DIR then holds reconstructions.png (test pictures, and below each what was made of it), samples.png (from
random vectors), interpolation.png, growth.png, growth.mp4, preview.png, model.safetensors, log.jsonl and
training.safetensors (for --resume). What to do with it:
    nca-fast vae fuse digits:0 digits:3 --model runs/digits --out fused.png
    nca-fast vae repair photo.jpg --model runs/photos --out repaired.png
    nca-fast vae outpaint photo.jpg --model runs/photos --height 60 --width 60 --out larger.png
"""

VAE = Task(
    name="vae",
    help=HELP,
    Sources=VAESources,
    Config=VAEConfig,
    home="nca_fast.systems.vae.system:VAE",
    main=("dataset", "iterations", "preset", "batch_size", "learning_rate", "beta", "damage", "video_steps", "seed"),
)
