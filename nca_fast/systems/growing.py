"""A growing automaton: one cell becomes a picture, stays it, and mends it after damage.

Source: Mordvintsev, Randazzo, Niklasson and Levin, "Growing Neural Cellular Automata", Distill 2020, and its notebook.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from nca_fast.devices import moved
from nca_fast.losses import regularizers, weighted
from nca_fast.media.film import VideoWriter, missing_encoder
from nca_fast.media.images import enlarged, load_rgba, save_image, source_name
from nca_fast.nca import NCA, over_white
from nca_fast.systems.drawing import next_render
from nca_fast.training.capture import Captured
from nca_fast.training.damage import circles
from nca_fast.training.endurance import Endurance
from nca_fast.training.optimizers import OptimizerName
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import SavedRun
from nca_fast.training.settings import FREE_ON_RESUME, PoolConfig
from nca_fast.training.system import PoolSystem, given_or_saved

RADII = (0.1, 0.6)  # of the circles that a training erases; 1 is half the side of the canvas. (The notebook: to 0.4.)
MILESTONES = (40, 65, 80, 90, 95)  # percent of a run at which the learning rate is lowered
GROWN = 128  # steps after which the picture should be there, and there again
# What was measured with the default settings: iterations, squared errors grown and regrown, what is seen. The first is
# three sprites of 40 pixels (held_set_growth_after.json), the last grow.json's run, the others the same on its way.
MEASURED = (
    (400, 0.042, 0.044, "a cloud in its colours"),
    (1200, 0.012, 0.014, "smeared"),
    (1800, 0.006, 0.013, "blurred"),
    (2300, 0.003, 0.006, "clear"),
    (3000, 0.0014, 0.0045, "nearly sharp"),
)
FILLING = 1.75  # times the pace of the first iterations, in which few cells live: 1.3 with 20 pixels, 2.3 with 40
SHARP = 1e-3  # squared error below which a picture is sharp to the eye
ZOOM = 4  # pixels along the side of a cell


@dataclass(frozen=True)
class GrowingConfig(PoolConfig):
    """Settings of a growing automaton's training.

    The recipe of the Distill notebook with a smaller canvas, pool and batch, and short rollouts first: its 8,000
    iterations of 8 states out of 1,024, three of them damaged, are for a GPU.
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
    """So many iterations are short: they cost half, and a picture that must be there soon is learned sooner; in the
    others it learns to stay. None: seven tenths of the run. 0: none, as in the notebook."""
    early_steps_min: int = 32
    """Shortest rollout of an early iteration. A picture grows by less than a cell a step."""
    early_steps_max: int = 48
    """Longest rollout of an early iteration."""
    steps_min: int = 64
    """Shortest rollout of an iteration."""
    steps_max: int = 96
    """Longest rollout of an iteration."""
    overflow_weight: float = 0.0
    """Weight of a loss that keeps all channels of all cells between -1 and 1. The notebook has none."""
    video_steps: int = 512
    """Steps shown in growing.mp4, in which the picture grows, is wounded and regrows. 0, or --no-video: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least(image_size=1, image_margin=0, damage=0, video_steps=0, early_iterations=0, early_steps_min=1)
        if self.early_steps_min > self.early_steps_max:
            raise ValueError(
                f"early_steps_min must be at most early_steps_max={self.early_steps_max}, but got "
                f"{self.early_steps_min}."
            )
        if self.damage >= self.batch_size:
            raise ValueError(f"damage must be below batch_size={self.batch_size}, but got {self.damage}.")

    def resolved(self) -> "GrowingConfig":
        """As `RunConfig.resolved`, with a number of early iterations, and milestones that end a run in fine steps."""
        early = self.iterations * 7 // 10 if self.early_iterations is None else self.early_iterations
        milestones = self.lr_milestones
        if milestones is None:
            milestones = tuple(sorted({max(1, self.iterations * percent // 100) for percent in MILESTONES}))
        return replace(self, early_iterations=early, lr_milestones=milestones)

    def steps_at(self, iteration: int) -> tuple[int, int]:
        """The shortest and the longest rollout of an iteration, in steps, of resolved settings."""
        if iteration < self.early_iterations:
            return self.early_steps_min, self.early_steps_max
        return self.steps_min, self.steps_max


@dataclass(frozen=True)
class GrowingSources:
    """What a growing automaton learns."""

    image: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(not needed with --resume)"),
    ] = None
    """Picture file to grow; it should have a transparent background."""


class Growing(PoolSystem):
    """Learn to grow a small picture out of one cell, to keep it, and to mend it after damage.

    For example, with the ladybird that comes with the source code, or any picture with a transparent background:
        nca-fast grow examples/ladybird.png --out runs/ladybird

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast grow --out runs/ladybird --resume

    DIR then holds regrowth.png (the target, what was grown, wounded, and regrown), growing.mp4, preview.png (the
    target and what was grown on the way), model.safetensors (for `nca-fast render` and NCA.from_pretrained), log.jsonl
    and training.safetensors (for --resume).
    """

    name = "grow"
    Sources, Config = GrowingSources, GrowingConfig
    free_on_resume = (*FREE_ON_RESUME, "video_steps")
    files = ("regrowth.png", "growing.mp4")

    def __init__(self, config: GrowingConfig, sources: GrowingSources, saved: SavedRun | None, out: Path):
        self.config = config

        def read(image: str | Path | Tensor) -> Tensor:
            return read_target(image, config)

        self.kept = {"target": given_or_saved("image", sources.image, read, saved, out, 4)}
        self.facts = {"image": saved.metadata["image"] if saved else source_name(sources.image)}

    def forecast(self, pace: float) -> list[str]:
        """As `System.forecast`: how long it takes, and what runs of such a length have left."""
        config = self.config
        # Beyond the early iterations the rollouts are longer. (Of the time that is left they have the same share.)
        longer = (config.steps_min + config.steps_max) / (config.early_steps_min + config.early_steps_max)
        early, pace = min(config.early_iterations, config.iterations) / config.iterations, FILLING * pace
        iterations, cost = config.iterations, pace * (early + (1 - early) * longer)
        if config.time_limit is not None:
            iterations = min(iterations, round(config.time_limit / pace * (early + (1 - early) / longer)))
        seconds = min(iterations * cost, config.time_limit or math.inf)
        return [f"to expect: some {iterations} iterations in {_time(seconds)}; {_expected(iterations)}"]

    @property
    def target(self) -> Tensor:
        """The picture that is learned, [4, H, W]."""
        return self.kept["target"]

    def size(self) -> tuple[int, int]:
        """Rows and columns of the picture with its margin."""
        return tuple(self.target.shape[1:])

    def model(self) -> NCA:
        """Makes the automaton. Raises ValueError for a preset that does not grow."""
        nca = super().model()
        if nca.start != "cell" or nca.rule.alive_channel != 3:
            raise ValueError(
                "preset must be an automaton that grows from a cell and has RGB and alpha, such as 'growing', but got "
                f"{self.config.preset!r}."
            )
        return nca

    def objective(self) -> Objective:
        """The squared error of what grew."""

        def measure(states: Tensor) -> dict[str, Tensor]:
            return weighted(
                mse=(1.0, lambda: errors(states, self.target).sum()),
                overflow=(self.config.overflow_weight, lambda: regularizers.overflow(states)),
            )

        captured = Captured(measure)
        return lambda states, generator: captured(states)

    def augment(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """Lets the worst state of a batch start afresh, so that the automaton does not forget how to begin, and damages
        the best ones, so that it learns to mend."""
        order, damage = errors(states, self.target).argsort(descending=True), self.config.damage
        states[order[:1]] = self.nca.initial_state(1, *self.size())
        left = [circles(*self.size(), 1, *RADII, generator) for _ in range(damage)]
        if damage:
            states[order[-damage:]] *= moved(torch.stack(left), states.device)[:, None]
        return states

    def large_start(self, side: int, seed: int) -> Tensor:
        """Makes a single cell on the canvas of the training, whose size the picture has given."""
        return self.nca.initial_state(1, *self.size())

    def trial(self) -> Endurance:
        """A life five times as long as a texture's."""
        return Endurance(side=max(self.size()), steps=10_000)

    def references(self) -> list[Tensor]:
        """The picture on white."""
        return [on_white(self.target)]

    def preview(self) -> Tensor:
        """What grows from a single cell, and not from what the pool holds."""
        state, seed = self.nca.initial_state(1, *self.size()), self.derived("preview")
        with torch.no_grad():
            return self.nca.to_rgb(self.nca(state, self.config.steps_max, seed=seed, **self.config.how))[0]

    def draw(self, out: Path, progress: bool) -> None:
        """Writes what was grown, wounded and regrown, and a film of it."""
        nca, config = self.nca, self.config
        left = moved(wound(*self.size()), nca.device)
        pictures = [on_white(self.target), *(nca.to_rgb(state)[0] for state in self.mended().states)]
        save_image(enlarged(torch.cat(pictures, dim=2), ZOOM), out / "regrowth.png")
        if not config.video_steps or missing_encoder(out / "growing.mp4"):
            return
        half, state = config.video_steps // 2, nca.initial_state(1, *self.size())
        with torch.no_grad(), VideoWriter(out / "growing.mp4", fps=30) as video:
            for step in range(config.video_steps):
                if step == half:
                    state = state * left
                video.add(enlarged(nca.to_rgb(state)[0], ZOOM))
                state = nca(state, 1, seed=config.seed, first_step=step, **self.config.how)

    def mended(self) -> "Regrowth":
        """Grows the picture, wounds it and lets it regrow."""
        left = moved(wound(*self.size()), self.nca.device)
        return regrowth(self.nca, self.target, left, seed=self.config.seed, **self.config.how)

    def figures(self) -> dict[str, float]:
        """Measures the errors of the grown and of the regrown picture."""
        mended = self.mended()
        return {"grown": mended.before, "regrown": mended.after}

    def notes(self, out: Path, figures: Mapping[str, float]) -> list[str]:
        """What the errors mean, and how to draw more."""
        grown, regrown = figures["grown"], figures["regrown"]
        error = f"mean squared error grown {grown:.2g}, regrown {regrown:.2g} (sharp: {SHARP:g} or less)"
        if max(grown, regrown) > SHARP:
            error += f"; a longer run is sharper: nca-fast grow ... --iterations {2 * self.config.iterations}"
        return [error, next_render(out, 64, 200, "grown.mp4")]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _expected(iterations: int) -> str:
    """What the longest measured run that was no longer than this has left, or that none was as short."""
    known = [row for row in MEASURED if row[0] <= iterations]
    if not known:
        return f"pictures of {MEASURED[0][0]} and less are {MEASURED[0][3]}"
    length, grown, regrown, seen = known[-1]
    return f"{length} left a squared error of {grown:g}, {regrown:g} where it regrew: {seen} (sharp: {SHARP:g} or less)"


def on_white(rgba: Tensor) -> Tensor:
    """A picture [4, H, W], RGB multiplied by alpha, as it looks on white paper. [3, H, W]"""
    return over_white(rgba[:3], rgba[3:]).clamp(0, 1)


def errors(states: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of red, green, blue and alpha of each state. [B, C, H, W], [4, H, W] -> [B]"""
    return (states[:, :4] - target).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class Regrowth:
    """How an automaton mends itself: errors as `errors` gives them, and the states [1, C, H, W] they belong to."""

    before: float
    damaged: float
    after: float
    states: tuple[Tensor, Tensor, Tensor]


def wound(height: int, width: int) -> Tensor:
    """What is left when a large circle in the right half is erased: 1 outside and 0 inside of it, [height, width]."""
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return (rows.square() + (columns - 0.4).square() >= 0.5**2).float()


@torch.no_grad()
def regrowth(
    nca: NCA,
    target: Tensor,
    left: Tensor,
    *,
    steps: int = GROWN,
    seed: int = 0,
    backend: str | None = None,
    precision: str | None = None,
) -> Regrowth:
    """Grows the picture, keeps of it what is in `left` [H, W], and lets it go on for as many steps again."""
    compute = {"seed": seed, "backend": backend, "precision": precision}
    grown = nca(nca.initial_state(1, *target.shape[1:]), steps, **compute)
    cut = grown * left
    mended = nca(cut, steps, first_step=steps, **compute)
    states = (grown, cut, mended)
    return Regrowth(*(float(errors(state, target)[0]) for state in states), states)


def read_target(image: str | Path | Tensor, config: GrowingConfig) -> Tensor:
    """Opens the picture to learn, in the middle of an empty canvas. [4, H, W]"""
    picture = image if isinstance(image, Tensor) else load_rgba(image, config.image_size)
    if picture.ndim != 3 or picture.shape[0] != 4:
        raise ValueError(f"image must be [4, h, w], but its shape is {list(picture.shape)}.")
    if max(picture.shape[1:]) > config.image_size:
        raise ValueError(
            f"image must be at most image_size={config.image_size} pixels high and wide, to which files are shrunk, "
            f"but it is {picture.shape[1]} x {picture.shape[2]}."
        )
    if picture[3].max() <= 0.1:
        raise ValueError("image must have pixels that are not transparent, but has none: nothing could live.")
    return F.pad(picture, [config.image_margin] * 4)
