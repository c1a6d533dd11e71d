"""Long rollouts on large canvases, in which an automaton must not run away.

A training sees a small torus for some dozens of steps. What is drawn later is larger and older, and has room for
neighbourhoods and waves that no training canvas holds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nca_fast.nca import NCA

ROUNDS = 4  # so many times a training goes on where its automaton runs away,
ROUND = 0.05  # each time for this share of its iterations
_CHUNK = 64  # steps between two looks at the state
FAR = 10  # times beyond the limit nothing comes back


@dataclass(frozen=True)
class Endurance:
    """What an automaton has to endure: so many rollouts, of so many steps, on a square canvas of so many cells."""

    rollouts: int = 8
    side: int = 512
    steps: int = 2000

    @property
    def cell_steps(self) -> int:
        """Cells times steps of all of them."""
        return self.rollouts * self.side**2 * self.steps

    def within(self, budget: int, side: int) -> "Endurance | None":
        """Makes the largest one that costs no more than a budget: fewer rollouts, steps and cells, down to one rollout
        of 1,000 steps on 256 x 256 cells, as long as that is affordable, for some run away slowly or in a few places
        alone. None where not even one rollout of 64 steps on the canvas of the training is.

        Args:
            budget: Cells times steps.
            side: Of the canvas in training.
        """
        trial = self
        for fewer in (
            lambda t: Endurance(t.rollouts // 2, t.side, t.steps) if t.rollouts > 2 else t,
            lambda t: Endurance(t.rollouts, t.side, t.steps // 2) if t.steps >= 2000 else t,
            lambda t: Endurance(t.rollouts, t.side // 2, t.steps) if t.side > 256 and t.side >= 4 * side else t,
            lambda t: Endurance(max(1, t.rollouts // 2), t.side, t.steps),
            lambda t: Endurance(t.rollouts, t.side // 2, t.steps) if t.side >= 4 * side else t,
            lambda t: Endurance(t.rollouts, t.side, t.steps // 2) if t.steps > 64 else t,
            lambda t: Endurance(t.rollouts, max(side, t.side // 2), t.steps),
        ):
            while trial.cell_steps > budget and fewer(trial) != trial:
                trial = fewer(trial)
        return trial if trial.cell_steps <= budget else None

    def __str__(self) -> str:
        rollouts = "1 rollout" if self.rollouts == 1 else f"{self.rollouts} rollouts"
        return f"{rollouts} of {self.steps} steps on {self.side} x {self.side} cells"


LEAST = Endurance(1, 256, 1000)  # for which trainings of a quarter of a minute shall find time: it takes 2 to 4 seconds


@dataclass(frozen=True)
class Endured:
    """How it went.

    Args:
        trial: What was tried.
        largest: The largest value, without its sign, that any state had when it was looked at, every 64 steps.
        runaway: Steps after which the first rollout was beyond the limit, for good; or None.
    """

    trial: Endurance
    largest: float
    runaway: int | None

    def __str__(self) -> str:
        if self.runaway is None:
            return f"endured {self.trial}: no value beyond {self.largest:.2g}"
        return f"runs away within {self.runaway} steps on {self.trial.side} x {self.trial.side} cells"


@torch.no_grad()
def endure(
    nca: NCA,
    start: Callable[[int, int], Tensor],
    trial: Endurance,
    limit: float,
    seed: int,
    roll: Callable[..., Tensor] | None = None,
    **how,
) -> Endured:
    """Rolls out, one state after the other, until one has run away or all have endured.

    A state has run away that is beyond the limit at two looks in a row, at the last, or `FAR` times beyond it. One that
    comes back has not: hard edges may overshoot for a few steps.

    Args:
        nca: The automaton.
        start: (side, seed) -> a start state [1, C, H, W]; the side is a wish.
        trial: How long and how large.
        limit: Plus or minus this is as far as values should go.
        seed: Of the first rollout; the others have the next ones.
        roll: (states, steps, and more of `nca_fast.rollout`) -> what becomes of them. None: the automaton itself.
        how: backend and precision, as in `nca_fast.rollout`.
    """
    largest, roll = 0.0, nca if roll is None else roll
    for number in range(seed, seed + trial.rollouts):
        state, since = start(trial.side, number), None
        for step in range(0, trial.steps, _CHUNK):
            done = min(step + _CHUNK, trial.steps)
            state = roll(state, done - step, seed=number, first_step=step, **how)
            value = float(state[:, nca.rule.frozen :].abs().amax())
            if value <= limit:
                since = None
            elif since is None and value <= FAR * limit and done < trial.steps:
                since = done
            else:
                return Endured(trial, value, since or done)
            largest = max(largest, value)
    return Endured(trial, largest, None)
