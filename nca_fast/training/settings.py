"""The settings that all trainings share."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import tyro

from nca_fast.choices import FeaturesChoice, FeaturesName, OptimizerName, StyleLossName
from nca_fast.compute import ComputeConfig
from nca_fast.sizes import parse_bytes

# What may change while a run goes on: the length, what is watched, and the machine. The weights after an iteration do
# not depend on the former at all, but for a cooldown at the end, and on the latter by rounding only.
FREE_ON_RESUME = (
    *(
        "iterations",
        "minutes",
        "threads",
        "checkpoint_every",
        "checkpoint_seconds",
        "preview_every",
        "watch",
        "tensorboard",
    ),
    *("device", "backend", "precision", "memory"),
)

MOST_CIRCLES = 1000  # all are drawn at once: more would take memory, and leave nothing of the picture
TOO_LARGE = 2**31  # of all integers but the seed: what asks for more never ends, or fills any memory


def length(iterations: int, minutes: float | None) -> str:
    """Spells the option that says how long a training is: its minutes, or without them its iterations."""
    return f"--iterations {iterations}" if minutes is None else f"--minutes {minutes:g}"


def default_milestones(iterations: int) -> tuple[int, ...]:
    """Chooses when to lower the learning rate where the user does not say: after half and four fifths of the run.

    The notebook does it after 1000 and 2000 of 5000. In short runs small steps gain nothing before the large ones have
    brought the weights somewhere.
    """
    return tuple(sorted({max(1, iterations // 2), max(1, iterations * 4 // 5)}))


@dataclass(frozen=True)
class RunConfig(ComputeConfig):
    """Settings of every training: its length, learning rate, seed, and what is saved."""

    iterations: int = 2000
    """Length of the training. May be raised when a run is resumed."""
    minutes: float | None = None
    """Train for so many minutes, in place of --iterations. What happens at a share of the iterations, such as lowering
    the learning rate, then happens at that share of the time, so that the result depends on how fast the machine is:
    "planned" in log.jsonl says how. A run that is resumed keeps to its minutes, or is given more."""
    memory: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Memory that the states of an iteration and of the pool may take, such as 2GiB; a training that needs more is
    refused at its start. None: what is free."""
    batch_size: int = 1
    """Samples of an iteration."""
    optimizer: OptimizerName = "adam"
    """What takes the steps: adam, or muon, which moves a matrix of weights equally far in all its directions."""
    learning_rate: float = 2e-3
    """Step size of the optimizer, before the milestones. With muon the spectral norm of the step of a matrix with at
    least as many columns as rows; biases are then Adam's, with a fifth of it."""
    lr_milestones: tuple[int, ...] | None = None
    """Iterations at which the learning rate is lowered. None: after half and four fifths of the run."""
    lr_gamma: float = 0.3
    """Factor by which each milestone lowers the learning rate."""
    lr_cooldown: float = 0.0
    """The last share of the run, 0 to 1, in which the learning rate also falls in a line to 0, so that the weights
    settle. 0: none. It does so again before the new end of a run that is given more iterations."""
    seed: int = 0
    """Fixes all randomness: the same seed gives the same result on the same CPU with the same threads."""
    checkpoint_every: int | None = None
    """Save the state of training after so many iterations. None: only by time."""
    checkpoint_seconds: float = 60.0
    """Save the state of training after so many seconds."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Open a page in a browser that shows preview.png as it grows, DIR/watch.html."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write losses, learning rate and speed for TensorBoard, into DIR/tensorboard (pip install
    'nca-fast[tensorboard]')."""
    preview_every: int | None = None
    """Add a picture to preview.png after so many iterations. None: eleven pictures in the run."""

    def __post_init__(self) -> None:
        self.check_compute()
        if self.memory is not None:
            parse_bytes(self.memory)
        for name, value in vars(self).items():
            values = value if isinstance(value, tuple) else (value,)
            if name != "seed" and any(type(v) is int and v >= TOO_LARGE for v in values):
                raise ValueError(f"{name} must be below {TOO_LARGE}, but got {value}.")
        self.check_choices(optimizer=OptimizerName)
        self.check_least(seed=0, iterations=1, batch_size=1, lr_cooldown=0)
        if self.lr_cooldown > 1:
            raise ValueError(f"lr_cooldown must be at most 1, but got {self.lr_cooldown}.")
        self.check_least(**dict.fromkeys(("checkpoint_every", "checkpoint_seconds", "preview_every"), 1))
        self.check_positive("learning_rate", "lr_gamma", *(["minutes"] if self.minutes is not None else []))
        if any(milestone < 1 for milestone in self.lr_milestones or ()):
            raise ValueError(f"lr_milestones must be at least 1, but got {self.lr_milestones}.")

    def resolved(self) -> "RunConfig":
        """These settings with numbers for those that depend on the length of the run, which may be raised later."""
        milestones = default_milestones(self.iterations) if self.lr_milestones is None else self.lr_milestones
        return replace(self, lr_milestones=milestones)

    def rate_at(self, iteration: int) -> float:
        """The learning rate of an iteration of resolved settings: MultiStepLR as a pure function, with no state, times
        a line to 0 at the end.

        learning_rate * lr_gamma ** (number of milestones reached) * min(1, share that is left / lr_cooldown)
        """
        cooldown = self.lr_cooldown * self.iterations
        left = (self.iterations - iteration) / cooldown if cooldown else 1.0
        return self._rate_by_milestones(iteration) * min(1.0, left)

    def rate_beyond(self, left: float) -> float:
        """The learning rate in iterations beyond the end of resolved settings, of which such a share is left: the last
        before a cooldown, which then takes the second half of them."""
        return self._rate_by_milestones(self.iterations) * (min(1.0, 2 * left) if self.lr_cooldown else 1.0)

    def _rate_by_milestones(self, iteration: int) -> float:
        return self.learning_rate * self.lr_gamma ** sum(iteration >= milestone for milestone in self.lr_milestones)

    def steps_at(self, iteration: int) -> tuple[int, int]:
        """The shortest and the longest rollout of an iteration, in steps, of resolved settings."""
        raise NotImplementedError

    def longer(self, times: int) -> str:
        """Spells the option of a training so many times as long."""
        return length(times * self.iterations, None if self.minutes is None else times * self.minutes)

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


@dataclass(frozen=True)
class PoolConfig(RunConfig):
    """Settings of the training on a pool of states."""

    normalize_gradients: bool = True
    """Scale the gradient of each parameter tensor to unit length."""
    pool_size: int = 32
    """States that live on between iterations."""
    batch_size: int = 1
    """States that an iteration takes from the pool. More make it slower and its gradient less noisy."""
    state_limit: float = 5.0
    """A state that has run away, with a value beyond plus or minus this, starts afresh."""
    reseed_every: int = 16
    """After every so many iterations one state of the batch starts afresh, that the automaton does not forget how to
    begin; of several textures one of each, by turns of chance. 0: never."""
    disturb: float = 0.0
    """Share of the states, 0 to 1, of which a disc is made strange before a rollout: noise, a piece of another state,
    emptiness, too much or too little. The automaton learns to mend it, and does not run away on large canvases."""
    steps_min: int = 32
    """Shortest rollout of an iteration."""
    steps_max: int = 64
    """Longest rollout of an iteration."""
    bptt_steps: int | None = None
    """Gradients pass through so many of the last steps. None: through all. (Published code: 1 to 20, by accident.)"""
    overflow_weight: float = 1.0
    """Weight of the loss that keeps all channels of all cells between -1 and 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(reseed_every=0, overflow_weight=0, state_limit=1, disturb=0)
        if self.disturb > 1:
            raise ValueError(f"disturb must be at most 1, but got {self.disturb}.")
        self.check_least(**dict.fromkeys(("pool_size", "steps_min", "steps_max", "bptt_steps"), 1))
        if self.batch_size > self.pool_size:
            raise ValueError(f"batch_size must be at most pool_size={self.pool_size}, but got {self.batch_size}.")
        if self.steps_min > self.steps_max:
            raise ValueError(f"steps_min must be at most steps_max={self.steps_max}, but got {self.steps_min}.")

    def steps_at(self, iteration: int) -> tuple[int, int]:
        """The shortest and the longest rollout of an iteration, in steps."""
        return self.steps_min, self.steps_max


@dataclass(frozen=True)
class FeatureConfig(PoolConfig):
    """Settings of a training whose losses look at pictures through a network."""

    features: FeaturesChoice = "auto"
    """What is compared. auto: vgg16 where its weights are at hand, else the best that needs no download: a dictionary,
    learned from the picture itself, or a random network."""
    weights: str | None = None
    """File with the weights of vgg16 or vgg19. None: torchvision's cache, or its download."""
    offline: ClassVar[FeaturesName] = "random"  # the best that need no download

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choices(features=FeaturesChoice)
        if self.weights is not None and not self.features.startswith(("vgg", "auto")):
            raise ValueError(f"weights must go with features vgg16 or vgg19, but features is {self.features!r}.")

    def resolved(self) -> "FeatureConfig":
        """As `RunConfig.resolved`, with the features that are at hand."""
        from nca_fast.features import best

        config = super().resolved()
        return replace(config, features=best(self.offline, self.weights)) if self.features == "auto" else config


@dataclass(frozen=True)
class StyleLossConfig(FeatureConfig):
    """Settings of a training with a style loss."""

    loss: StyleLossName | None = None
    """How textures are compared: Wasserstein-2 distance of Gaussians, sliced optimal transport, or Gram matrices. None:
    ot for vgg16 and vgg19, whose layers are so wide that w2 takes four times the time; w2 for others."""
    projections: int = 32
    """Random directions on which --loss ot compares, for each set of features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(projections=1)
        if self.loss is not None:
            self.check_choices(loss=StyleLossName)
        if self.loss not in (None, "ot") and self.projections != type(self).projections:
            raise ValueError(f"projections must go with loss 'ot', but loss is {self.loss!r}.")

    def resolved(self) -> "StyleLossConfig":
        """As `FeatureConfig.resolved`, with the loss that suits the features."""
        config = super().resolved()
        return (
            replace(config, loss="ot" if config.features.startswith("vgg") else "w2") if self.loss is None else config
        )


def check_circles(count: int) -> None:
    """Raises ValueError for a number of circles that `circles` cannot draw."""
    if not 0 <= count <= MOST_CIRCLES:
        raise ValueError(f"damage must be from 0 to {MOST_CIRCLES}, but got {count}.")
