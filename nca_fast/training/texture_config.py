"""The settings of a texture training."""

from dataclasses import dataclass
from typing import Literal, get_args

SMALLEST_IMAGE = 16  # VGG halves a picture four times
StyleLoss = Literal["ot", "gram", "w2"]
Features = Literal["random", "patches", "vgg16", "vgg19"]
Backend = Literal["reference", "cpu"]

# What may change while a run goes on, because the weights after an iteration do not depend on it.
FREE_ON_RESUME = ("iterations", "threads", "checkpoint_every", "checkpoint_seconds", "preview_every")
FREE_ON_RESUME += ("picture_steps", "video_steps")


@dataclass(frozen=True)
class TextureConfig:
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
    learning_rate: float = 2e-3
    """Step size of Adam, before the milestones. With the notebook's 1e-3 short runs get nowhere; what is learned with
    4e-3 is sharp early, but may blow up on large canvases."""
    lr_milestones: tuple[int, ...] | None = None
    """Iterations at which the learning rate is lowered. None: after half and four fifths of the run."""
    lr_gamma: float = 0.3
    """Factor by which each milestone lowers the learning rate."""
    normalize_gradients: bool = True
    """Scale the gradient of each parameter tensor to unit length."""
    pool_size: int = 32
    """States that live on between iterations. They take memory and disk: 0.8 MB each at 128 x 128 cells."""
    batch_size: int = 1
    """States that an iteration takes from the pool. More make it slower and its gradient less noisy."""
    state_limit: float = 5.0
    """A state that has run away, with a value beyond plus or minus this, starts afresh."""
    reseed_every: int = 16
    """So often one state of the batch starts afresh, that the automaton does not forget how to begin. 0: never."""
    steps_min: int = 32
    """Shortest rollout of an iteration."""
    steps_max: int = 64
    """Longest rollout of an iteration."""
    loss: StyleLoss = "w2"
    """How textures are compared: Wasserstein-2 distance of Gaussians, sliced optimal transport, or Gram matrices."""
    features: Features = "random"
    """What is compared: a random network or patches need no download, vgg16 and vgg19 are better and need weights."""
    weights: str | None = None
    """File with the weights of vgg16 or vgg19. None: torchvision's cache, or its download."""
    projections: int = 32
    """Random directions on which --loss ot compares, for each set of features."""
    overflow_weight: float = 1.0
    """Weight of the loss that keeps all channels of all cells between -1 and 1."""
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
    picture_steps: int = 256
    """Steps of the rollout that ends as texture.png, at four times the training size."""
    video_steps: int = 1890
    """Steps shown in texture.mp4, at twice the training size; 1890 make 10 seconds. 0: no video."""

    def __post_init__(self) -> None:
        least = {
            "image_size": SMALLEST_IMAGE,
            "image_crop": SMALLEST_IMAGE,
            "reseed_every": 0,
            "overflow_weight": 0,
            "seed": 0,
            "video_steps": 0,
        }
        least |= dict.fromkeys(("iterations", "pool_size", "batch_size", "steps_min", "steps_max", "projections"), 1)
        least |= dict.fromkeys(("threads", "checkpoint_every", "checkpoint_seconds", "preview_every"), 1)
        least |= dict.fromkeys(("picture_steps", "state_limit"), 1)
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < float("inf"):
                raise ValueError(f"{name} must be at least {bound}, but got {value}.")
        for name in ("learning_rate", "lr_gamma"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, but got {getattr(self, name)}.")
        if self.batch_size > self.pool_size:
            raise ValueError(f"batch_size must be at most pool_size={self.pool_size}, but got {self.batch_size}.")
        if self.steps_min > self.steps_max:
            raise ValueError(f"steps_min must be at most steps_max={self.steps_max}, but got {self.steps_min}.")
        if any(milestone < 1 for milestone in self.lr_milestones or ()):
            raise ValueError(f"lr_milestones must be at least 1, but got {self.lr_milestones}.")
        for name, known in (("loss", StyleLoss), ("features", Features), ("backend", Backend)):
            value = getattr(self, name)
            if value not in get_args(known) and not (name == "backend" and value is None):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, but got {value!r}.")
        if self.weights is not None and not self.features.startswith("vgg"):
            raise ValueError(f"weights must go with features vgg16 or vgg19, but features is {self.features!r}.")
        if self.loss != "ot" and self.projections != type(self).projections:
            raise ValueError(f"projections must go with loss 'ot', but loss is {self.loss!r}.")
