"""The one training loop: an iteration of whatever system, a step down its loss, reports, and moments to save or draw.

Every random choice of iteration i is a pure function of (seed, i): which samples, how many steps, which cells fire,
what the loss draws. So a run is its tensors and a counter, there is no generator state to save, and a run resumed from
a checkpoint computes the bits that the uninterrupted one would have (on a CPU, at the same thread count).
"""

import contextlib
import hashlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nca_fast import processes
from nca_fast.devices import moved
from nca_fast.training.descent import Descent
from nca_fast.training.stopwatch import Stopwatch


def derived_seed(seed: int, purpose: str, iteration: int = 0) -> int:
    """Derives a 63-bit integer from (seed, purpose, iteration), unrelated to that of any other three."""
    digest = hashlib.blake2b(f"{seed} {purpose} {iteration}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def derived_generator(seed: int, purpose: str, iteration: int = 0) -> torch.Generator:
    """Makes a fresh generator on the CPU for one purpose in one iteration."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, iteration))


@dataclass
class TrainingRun:
    """What a training changes as it goes and every system has: the model, the optimizer, and how far it has come.

    Args:
        model: What learns.
        optimizer: A torch optimizer over its parameters.
        iteration: Iterations finished.
        seconds: Wall time of them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    iteration: int = 0
    seconds: float = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state under flat names; the tensors themselves, not copies."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors

    def load(self, tensors: Mapping[str, Tensor], iteration: int, seconds: float) -> None:
        """Takes over the run whose `tensors()` these are, wherever it was computed."""
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        self.model.load_state_dict(weights)
        fused = any(group.get("fused") for group in self.optimizer.param_groups)
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            for key in state if fused else state.keys() - {"step"}:  # torch counts steps on the CPU, unless fused
                state[key] = moved(state[key], parameter.device)
            if state:
                self.optimizer.state[parameter] = state
        self.iteration, self.seconds = iteration, seconds


@dataclass(frozen=True)
class Work:
    """What an iteration computed: the length of its rollout, and its cells times steps."""

    steps: int
    cell_steps: int


@dataclass(frozen=True)
class Report:
    """What one iteration did.

    Args:
        iteration: Iterations finished, so the first report says 1.
        planned: Where in the plan the run is then: the same number, unless the plan is one of so much time.
        loss: Sum of the terms; NaN or infinite where the iteration was left out.
        terms: Each loss by name.
        learning_rate: The one that this iteration used.
        steps: Length of its rollout.
        cell_steps: Cells times steps of its rollout.
        seconds: Wall time since the report before, without what moments took. (On a GPU, where several reports may come
            at once, their share.)
    """

    iteration: int
    planned: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    steps: int
    cell_steps: int
    seconds: float

    @property
    def speed(self) -> float:
        """Cell-steps/s; 0 where the clock has counted no time."""
        return self.cell_steps / self.seconds if self.seconds else 0.0


class Moment(Protocol):
    """Something to do between iterations that needs the state as it is then, such as saving it."""

    def due(self, iteration: int, planned: int) -> bool:
        """Whether it is to be done after so many iterations, which are so many in the plan."""

    def __call__(self) -> None:
        """Does it."""


@dataclass(frozen=True)
class Plan:
    """How long a training goes on.

    Args:
        iterations: Counted from the beginning of the run.
        rate: Planned iteration -> learning rate.
        limit: Seconds that all iterations of the run shall take, or None. Then the share of this time that is gone says
            how far the plan has come, however many iterations were done in it.
        beyond: Iterations of an earlier plan, beyond whose end a run goes on: all then have the settings of that end,
            but for their learning rate.
    """

    iterations: int
    rate: Callable[[int], float]
    limit: float | None = None
    beyond: int = 0

    def planned(self, iteration: int, seconds: float) -> int:
        """The iteration of the plan whose settings an iteration takes; `iterations` when it is over."""
        if self.limit is None:
            return iteration
        # All processes take the same: that of the first one.
        return int(self.iterations * processes.broadcast(min(1.0, seconds / self.limit)))


def train(
    run: TrainingRun,
    step: Callable[[int, int, Descent], Work],
    plan: Plan,
    *,
    adjust_gradients: Callable[[list[Tensor]], object] | None = None,
    remedy: str = "a lower learning rate",
    listeners: Sequence[Callable[[Report], None]] = (),
    moments: Sequence[Moment] = (),
    delay: int | None = None,
) -> bool:
    """Trains until the plan is over, or the user presses Ctrl-C.

    Args:
        run: Changed in place.
        step: (iteration, planned iteration, descend) does an iteration, counted from 0, and calls `descend` once, with
            named scalar losses. They must be sums over samples, because each of several processes sees its share of the
            batch alone.
        plan: How long, and at which learning rates.
        adjust_gradients, remedy, delay: As in `Descent`.
        listeners: Called in turn with the Report of each iteration: progress bars, logs. On a GPU the report of an
            iteration comes some iterations later (`descent.DELAY`), because the host does not wait for its loss.
        moments: Done in turn between two iterations, when they are due and all reports before have come: checkpoints,
            previews.

    Returns:
        True when the run is complete. False when Ctrl-C asked for an end: the iteration was finished first, so the run
        can be saved. (A second Ctrl-C raises KeyboardInterrupt at once, and leaves the run in no state to be saved.)

    Raises:
        FloatingPointError: The loss or a gradient became NaN or infinite, and stayed so for some iterations; the run is
            as it was before the first of them.
    """
    descent = Descent(run.model, run.optimizer, adjust_gradients, remedy, delay)
    descent.settled = run.iteration
    pending: deque[tuple[Work, int]] = deque()
    told, spent = Stopwatch(), Stopwatch()

    def tell(everything: bool) -> None:
        readings = descent.readings(everything)
        if not readings:
            return
        seconds = told.lap() / len(readings)
        for reading in readings:
            try:
                loss, terms = descent.read(reading)
            except FloatingPointError:
                run.iteration = descent.settled
                raise
            work, planned = pending.popleft()
            rate = reading.learning_rate
            report = Report(reading.iteration, planned, loss, terms, rate, work.steps, work.cell_steps, seconds)
            for listener in listeners:
                listener(report)
        told.lap()

    with deferred_interrupt() as interrupted:
        planned = plan.planned(run.iteration, run.seconds)
        while planned < plan.iterations and not processes.any_true(interrupted.is_set()):
            settled = max(planned, plan.beyond)
            descent.begin(run.iteration, plan.rate(planned))
            work = step(run.iteration, settled, descent)
            run.iteration += 1
            run.seconds += spent.lap()
            planned = plan.planned(run.iteration, run.seconds)
            pending.append((work, planned))
            due = [moment for moment in moments if moment.due(run.iteration, planned)]
            # Whoever reads a loss that is not finite ends: all processes must read it in the same iteration.
            tell(processes.any_true(bool(due)) if descent.delay else bool(due))
            for moment in due:
                moment()
            if due:
                told.lap()
        tell(everything=True)
        return not processes.any_true(interrupted.is_set())


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into an event, so that no iteration is torn; the second interrupts at once."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread only
        yield interrupted
        return

    def on_signal(number: int, frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
