"""The settings of a VAE-NCA training."""

from dataclasses import dataclass
from typing import Literal

from nca_fast.systems.vae.architecture import ARCHITECTURES
from nca_fast.training.damage import check_circles
from nca_fast.training.settings import RunConfig

VAEPreset = Literal[tuple(ARCHITECTURES)]
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
        self.check_least(beta=0, video_steps=0)
        check_circles(self.damage)
        self.check_positive("gradient_limit")
        if not 0 < self.damage_radius <= 1:
            raise ValueError(f"damage_radius must be above 0 and at most 1, but got {self.damage_radius}.")
        self.check_choices(preset=VAEPreset, loss=Reconstruction)
