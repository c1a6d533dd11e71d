"""A growing automaton: one cell becomes a picture, stays it, and mends it after damage.

Source: Mordvintsev, Randazzo, Niklasson and Levin, "Growing Neural Cellular Automata", Distill 2020, and its notebook.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from nca_fast.devices import moved
from nca_fast.losses import regularizers, weighted
from nca_fast.media.film import VideoWriter, missing_encoder
from nca_fast.media.images import enlarged, load_rgba, save_image, source_name
from nca_fast.nca import NCA
from nca_fast.states import over_white
from nca_fast.systems.growing_settings import FILMED, GROW, GrowingConfig, GrowingSources
from nca_fast.training.capture import Captured
from nca_fast.training.damage import circles
from nca_fast.training.endurance import Endurance
from nca_fast.training.pool import Objective
from nca_fast.training.run_folder import SavedRun
from nca_fast.training.settings import FREE_ON_RESUME
from nca_fast.training.system import PoolSystem, given_or_saved

RADII = (0.1, 0.6)  # of the circles that a training erases; 1 is half the side of the canvas. (The notebook: to 0.4.)
GROWN = 128  # steps after which the picture should be there, and there again
# What the default settings gave (bench/results/grow.json): iterations, squared errors grown and regrown, what is seen.
MEASURED = (3000, 0.00017, 0.0046, "what grew is sharp, what regrew a little smeared")
FILLING = 1.45  # times the pace of the first iterations, in which few cells live: 1.15 with 20 pixels, 1.75 with 40
SHARP = 1e-3  # squared error below which a picture is sharp to the eye
ZOOM = 4  # pixels along the side of a cell


class Growing(PoolSystem):
    """A growing automaton; see `GROW` for what its command says."""

    name, Sources, Config = GROW.name, GrowingSources, GrowingConfig
    free_on_resume = (*FREE_ON_RESUME, "video_steps")
    files = ("regrowth.png", "growing.mp4")
    slower = FILLING

    def __init__(self, config: GrowingConfig, sources: GrowingSources, saved: SavedRun | None, out: Path):
        self.config = config

        def read(image: str | Path | Tensor) -> Tensor:
            return read_target(image, config)

        self.kept = {"target": given_or_saved("image", sources.image, read, saved, out, 4)}
        self.learned = self.target.clone()  # what the iteration learns: the picture, or a smaller one
        self.learned_size = config.image_size
        self.facts = {"image": saved.metadata["image"] if saved else source_name(sources.image)}

    def beginning(self) -> list[str]:
        """Says of a picture with nothing transparent that its background is learned with it."""
        margin = self.config.image_margin
        if self.target[3, margin : self.size()[0] - margin, margin : self.size()[1] - margin].min() < 1:
            return []
        return ["nothing of the picture is transparent: all of its rectangle is learned, the background too"]

    def forecast(self, iterations: int) -> list[str]:
        """As `System.forecast`: what runs of such a length have left."""
        return [_expected(iterations)]

    def summed(self) -> int:
        """As `System.summed`; the error is a mean over cells, summed over the states of an iteration."""
        return self.config.batch_size

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

    def begin(self, model: NCA, saved: SavedRun | None) -> None:
        """As `System.begin`."""
        self.learned = moved(self.learned, model.device)
        super().begin(model, saved)

    def prepare(self, planned: int) -> None:
        """Enlarges what is learned, in place: graphs on a GPU read it where it is."""
        size = self.config.size_at(planned)
        if size != self.learned_size:
            self.learned.copy_(smaller(self.target, size / self.config.image_size))
            self.learned_size = size

    def objective(self) -> Objective:
        """The squared error of what grew."""

        def measure(states: Tensor) -> dict[str, Tensor]:
            return weighted(
                mse=(1.0, lambda: errors(states, self.learned).sum()),
                overflow=(self.config.overflow_weight, lambda: regularizers.overflow(states)),
            )

        captured = Captured(measure)
        return lambda states, generator: captured(states)

    def augment(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """Lets the worst state of a batch start afresh, so that the automaton does not forget how to begin, and damages
        the best ones, so that it learns to mend."""
        order, damage = errors(states, self.learned).argsort(descending=True), self.config.damage
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

    def draw(self, out: Path, progress: bool, iterations: int, films: bool = True) -> None:
        """Writes what was grown, wounded and regrown, and a film of it."""
        nca, config = self.nca, self.config
        left = moved(wound(*self.size()), nca.device)
        pictures = [on_white(self.target), *(nca.to_rgb(state)[0] for state in self.mended().states)]
        save_image(enlarged(torch.cat(pictures, dim=2), ZOOM), out / "regrowth.png")
        steps = self.film_steps(FILMED * films, math.prod(self.size()), iterations)
        if not steps or missing_encoder(out / "growing.mp4"):
            return
        half, state = steps // 2, nca.initial_state(1, *self.size())
        with torch.no_grad(), VideoWriter(out / "growing.mp4", fps=30) as video:
            for step in range(steps):
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

    def notes(self, figures: Mapping[str, float]) -> list[str]:
        """What the errors mean."""
        grown, regrown = figures["grown"], figures["regrown"]
        error = f"mean squared error grown {grown:.2g}, regrown {regrown:.2g} (sharp: {SHARP:g} or less)"
        if max(grown, regrown) > SHARP:
            error += f"; a run with {self.config.longer(2)} is sharper"
        return [error, *super().notes(figures)]

    def then(self, out: Path) -> list[str]:
        """How to draw more."""
        run = shlex.quote(str(out))
        return [f"nca-fast render {run} --out grown.png", f"nca-fast render {run} --steps 500 --out grown.mp4"]


def _expected(iterations: int) -> str:
    """What the measured run has left, beside one of so many iterations."""
    length, grown, regrown, seen = MEASURED
    said = f"{length} left a squared error of {grown:g}, {regrown:g} where it regrew: {seen} (sharp: {SHARP:g} or less)"
    return said if iterations >= length else f"{said}, fewer leave more"


def on_white(rgba: Tensor) -> Tensor:
    """A picture [4, H, W], RGB multiplied by alpha, as it looks on white paper. [3, H, W]"""
    return over_white(rgba[:3], rgba[3:]).clamp(0, 1)


def smaller(target: Tensor, share: float) -> Tensor:
    """Shrinks a picture in the middle of its canvas, which stays as large; both sides lose an even number of pixels.

    Args:
        target: [C, H, W].
        share: Of its size that it keeps, above 0, at most 1.
    """
    lost = [round(length * (1 - share) / 2) for length in target.shape[1:]]
    size = [length - 2 * less for length, less in zip(target.shape[1:], lost, strict=True)]
    shrunk = F.interpolate(target[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return F.pad(shrunk, (lost[1], lost[1], lost[0], lost[0]))


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
