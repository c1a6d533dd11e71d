"""The settings of a VAE-NCA training."""

from dataclasses import dataclass
from typing import Literal, get_args

from nca_fast.training.settings import FREE_ON_RESUME, Backend

VAEPreset = Literal["vae-mnist", "vae-cifar", "vae-face"]
Reconstruction = Literal["mse", "bce"]

__all__ = ["FREE_ON_RESUME", "Reconstruction", "VAEConfig", "VAEPreset"]


@dataclass(frozen=True)
class VAEConfig:
    """Settings of a VAE-NCA training.

    The defaults learn scikit-learn's digits within 15 minutes on two CPU cores. The published code trains MNIST for
    20,000 iterations of 64 pictures, with a learning rate of 1e-4 and binary cross-entropy.
    """

    preset: VAEPreset = "vae-mnist"
    """Filters, widths, latent vector and number of steps of the paper's three models."""
    iterations: int = 2000
    """Length of the training. May be raised when a run is resumed."""
    batch_size: int = 16
    """Pictures in an iteration."""
    learning_rate: float = 1e-3
    """Step size of Adam, before the milestones."""
    lr_milestones: tuple[int, ...] | None = None
    """Iterations at which the learning rate is lowered. None: after half and four fifths of the run."""
    lr_gamma: float = 0.3
    """Factor by which each milestone lowers the learning rate."""
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
    seed: int = 0
    """Fixes all randomness: the same seed gives the same result on the same machine with the same threads."""
    backend: Backend | None = None
    """What computes the rollouts. None: the fastest that this machine has."""
    threads: int | None = None
    """CPU threads. None: as many as PyTorch chooses."""
    checkpoint_every: int | None = None
    """Save the state of training after so many iterations. None: only by time."""
    checkpoint_seconds: float = 60.0
    """Save the state of training after so many seconds."""
    preview_every: int | None = None
    """Add a picture to preview.png after so many iterations. None: eleven pictures in the run."""

    def __post_init__(self) -> None:
        counts = ("iterations", "batch_size", "threads", "checkpoint_every", "preview_every")
        for name, least in (*((name, 1) for name in counts), ("damage", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, but got {value}.")
        for name in ("learning_rate", "lr_gamma", "gradient_limit", "checkpoint_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, but got {getattr(self, name)}.")
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta must be at least 0, but got {self.beta}.")
        if not 0 < self.damage_radius <= 1:
            raise ValueError(f"damage_radius must be above 0 and at most 1, but got {self.damage_radius}.")
        if any(milestone < 1 for milestone in self.lr_milestones or ()):
            raise ValueError(f"lr_milestones must be at least 1, but got {self.lr_milestones}.")
        for name, known in (("preset", VAEPreset), ("loss", Reconstruction), ("backend", Backend)):
            value = getattr(self, name)
            if value not in get_args(known) and not (name == "backend" and value is None):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, but got {value!r}.")
