"""The settings that all training tasks share."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Backend = Literal["reference", "cpu"]
StyleLoss = Literal["ot", "gram", "w2"]
Features = Literal["random", "patches", "vgg16", "vgg19"]

# What may change while a run goes on, because the weights after an iteration do not depend on it.
FREE_ON_RESUME = ("iterations", "threads", "checkpoint_every", "checkpoint_seconds", "preview_every")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop, the pool and what is saved; tasks add theirs and may change the defaults."""

    iterations: int = 2000
    """Length of the training. May be raised when a run is resumed."""
    learning_rate: float = 2e-3
    """Step size of Adam, before the milestones."""
    lr_milestones: tuple[int, ...] | None = None
    """Iterations at which the learning rate is lowered. None: after half and four fifths of the run."""
    lr_gamma: float = 0.3
    """Factor by which each milestone lowers the learning rate."""
    normalize_gradients: bool = True
    """Scale the gradient of each parameter tensor to unit length."""
    pool_size: int = 32
    """States that live on between iterations."""
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

    def __post_init__(self) -> None:
        self.check_least(reseed_every=0, overflow_weight=0, seed=0, state_limit=1)
        self.check_least(**dict.fromkeys(("iterations", "pool_size", "batch_size", "steps_min", "steps_max"), 1))
        self.check_least(**dict.fromkeys(("threads", "checkpoint_every", "checkpoint_seconds", "preview_every"), 1))
        self.check_positive("learning_rate", "lr_gamma")
        if self.batch_size > self.pool_size:
            raise ValueError(f"batch_size must be at most pool_size={self.pool_size}, but got {self.batch_size}.")
        if self.steps_min > self.steps_max:
            raise ValueError(f"steps_min must be at most steps_max={self.steps_max}, but got {self.steps_min}.")
        if any(milestone < 1 for milestone in self.lr_milestones or ()):
            raise ValueError(f"lr_milestones must be at least 1, but got {self.lr_milestones}.")
        self.check_choices(backend=Backend)

    def check_least(self, **bounds: float) -> None:
        """Raises ValueError for a field, not None, that is below its bound, infinite or NaN."""
        for name, bound in bounds.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < float("inf"):
                raise ValueError(f"{name} must be at least {bound}, but got {value}.")

    def check_positive(self, *names: str) -> None:
        """Raises ValueError for a field that is not a positive finite number."""
        for name in names:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, but got {getattr(self, name)}.")

    def check_choices(self, **known: Any) -> None:
        """Raises ValueError for a field, not None, that is none of the values of its Literal type."""
        for name, choices in known.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, but got {value!r}.")

    def check_style_loss(self) -> None:
        """Raises ValueError for what does not go together in loss, projections, features and weights."""
        self.check_least(projections=1)
        self.check_choices(loss=StyleLoss, features=Features)
        if self.weights is not None and not self.features.startswith("vgg"):
            raise ValueError(f"weights must go with features vgg16 or vgg19, but features is {self.features!r}.")
        if self.loss != "ot" and self.projections != type(self).projections:
            raise ValueError(f"projections must go with loss 'ot', but loss is {self.loss!r}.")
