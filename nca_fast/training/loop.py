"""The one training loop: sample from the pool, roll out, loss, backward, normalise the gradient, step, write back.

Every random choice of iteration i is a pure function of (seed, i): which samples, how many steps, which cells fire,
what the loss draws. So a run is its tensors and a counter, there is no generator state to save, and a run resumed from
a checkpoint computes the bits that the uninterrupted one would have (at the same thread count).

Source: the recipe of Niklasson et al., "Self-Organising Textures", Distill 2021, whose PyTorch notebook the defaults of
the tasks follow.
"""

import contextlib
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nca_fast import processes
from nca_fast.training.pool import Pool


def derived_seed(seed: int, purpose: str, iteration: int = 0) -> int:
    """A 63-bit integer that is fixed by (seed, purpose, iteration), and unrelated to that of any other three."""
    digest = hashlib.blake2b(f"{seed} {purpose} {iteration}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def derived_generator(seed: int, purpose: str, iteration: int = 0) -> torch.Generator:
    """A fresh generator on the CPU for one purpose in one iteration."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, iteration))


def learning_rate_at(iteration: int, base: float, milestones: Iterable[int], gamma: float) -> float:
    """base * gamma ** (number of milestones reached): MultiStepLR as a pure function, without a state to save."""
    return base * gamma ** sum(iteration >= milestone for milestone in milestones)


def normalize_gradients(parameters: Iterable[Tensor]) -> None:
    """Scales the gradient of each parameter tensor to unit length: g / (|g| + 1e-8)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= parameter.grad.norm() + 1e-8


def descend(
    terms: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    rate: float,
    tame: Callable[[list[Tensor]], object] | None,
    iteration: int,
    remedy: str,
) -> tuple[float, dict[str, float]]:
    """One step of the optimizer down the sum of losses, which are those of this process's share of the batch.

    Args:
        terms: Named scalar losses.
        optimizer: Over all that learns.
        rate: Learning rate.
        tame: Changes the gradients of a list of parameters in place, after they have been summed over the processes.
        iteration: Counted from 0.
        remedy: What an error tells the user to train with.

    Returns:
        The loss and its terms, summed over the processes.

    Raises:
        FloatingPointError: The loss is NaN or infinite; nothing has changed.
    """
    loss = sum(terms.values())
    value, *values = processes.summed([float(term.detach()) for term in (loss, *terms.values())])
    if not math.isfinite(value):
        raise FloatingPointError(
            f"loss must stay finite, but it is {value} in iteration {iteration + 1}. Train again with {remedy}."
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    processes.sum_gradients(parameters)
    if tame is not None:
        tame(parameters)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return value, dict(zip(terms, values, strict=True))


@dataclass
class Run:
    """What a training run changes as it goes: all that a checkpoint must hold beside the settings.

    Args:
        nca: The automaton that learns.
        optimizer: A torch optimizer over its parameters.
        pool: The sample pool.
        seed: Fixes all randomness of the run.
        iteration: Iterations finished.
    """

    nca: nn.Module
    optimizer: torch.optim.Optimizer
    pool: Pool
    seed: int
    iteration: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Weights, optimizer state and pool under flat names; the tensors themselves, not copies."""
        tensors = {f"nca.{name}": value for name, value in self.nca.state_dict().items()}
        for name, parameter in self.nca.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors | {"pool": self.pool.states}

    @classmethod
    def restored(
        cls,
        nca: nn.Module,
        optimizer: torch.optim.Optimizer,
        tensors: Mapping[str, Tensor],
        seed: int,
        iteration: int,
    ) -> "Run":
        """The run whose `tensors()` these are, with a fresh automaton and a fresh optimizer of the same kind."""
        weights = {name.removeprefix("nca."): value for name, value in tensors.items() if name.startswith("nca.")}
        nca.load_state_dict(weights)
        for name, parameter in nca.named_parameters():
            prefix = f"optimizer.{name}."
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            for key in state.keys() - {"step"}:  # torch keeps the step counter on the CPU
                state[key] = state[key].to(parameter.device)
            if state:
                optimizer.state[parameter] = state
        return cls(nca, optimizer, Pool(tensors["pool"].to(next(nca.parameters()).device)), seed, iteration)


@dataclass(frozen=True)
class Report:
    """What one iteration did.

    Args:
        iteration: Iterations finished, so the first report says 1.
        loss: Sum of the terms.
        terms: Each loss by name.
        learning_rate: The one that this iteration used.
        steps: Length of its rollout.
        cell_steps: Cells times steps of its rollout.
        seconds: Wall time of the whole iteration.
    """

    iteration: int
    loss: float
    terms: dict[str, float]
    learning_rate: float
    steps: int
    cell_steps: int
    seconds: float


def train(
    run: Run,
    objective: Callable[[Tensor, torch.Generator], dict[str, Tensor]],
    *,
    iterations: int,
    batch_size: int,
    reseed_every: int,
    steps: Callable[[int], tuple[int, int]],
    learning_rate: Callable[[int], float],
    normalize: bool = True,
    state_limit: float = math.inf,
    start: Callable[[int, int], Tensor] | None = None,
    alter: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    bptt_steps: int | None = None,
    backend: str | None = None,
    listeners: Sequence[Callable[[Report], None]] = (),
) -> bool:
    """Trains until `run.iteration` reaches `iterations`, or the user presses Ctrl-C.

    Args:
        run: Changed in place.
        objective: (states [B, C, H, W], generator) -> named scalar losses, whose sum is minimised. They must be sums
            over samples, because each of several processes sees its share of the batch alone.
        iterations: Where to stop, counted from the beginning of the run.
        batch_size: Samples in an iteration; several processes share them evenly (see `processes`).
        reseed_every: So often the first sample of the batch is replaced by a start state; 0 never does.
        steps: iteration -> the shortest and the longest rollout. The number of steps is drawn evenly between them, both
            included (the notebook's randint(32, 96) ends at 95).
        learning_rate: iteration -> learning rate.
        normalize: Scale the gradient of each parameter tensor to unit length.
        state_limit: A sample whose state went beyond this in any value starts afresh. Left in the pool, it would grow
            until the loss overflows, and would turn the weights in a senseless direction each time that it is drawn.
        start: (count, seed) -> start states [count, C, H, W]. None: the automaton's own, which need no picture.
        alter: (the batch as it came from the pool, generator) -> the states that the rollout starts from. None: these.
        bptt_steps: As in `nca_fast.rollout`.
        backend: As in `nca_fast.rollout`.
        listeners: Called in turn with the Report of each iteration: progress bars, logs, checkpoints.

    Returns:
        True when the run is complete. False when Ctrl-C asked for an end: the iteration was finished first, so the run
        can be saved. (A second Ctrl-C raises KeyboardInterrupt at once, and leaves the run in no state to be saved.)

    Raises:
        FloatingPointError: The loss became NaN or infinite; the run is as it was before that iteration.
    """
    tame = normalize_gradients if normalize else None
    remedy = "a lower learning rate or a higher overflow weight"
    height, width = run.pool.states.shape[2:]
    share = processes.share(batch_size)
    if start is None:

        def start(count: int, seed: int) -> Tensor:
            return run.nca.initial_state(count, height, width, seed=seed)

    with deferred_interrupt() as interrupted:
        while run.iteration < iterations and not processes.any_true(interrupted.is_set()):
            begin, i = time.perf_counter(), run.iteration
            draw = derived_generator(run.seed, "pool", i)
            shortest, longest = steps(i)
            count = int(torch.randint(shortest, longest + 1, (), generator=draw))
            indices, states = run.pool.sample(batch_size, draw)
            if reseed_every and i % reseed_every == 0:
                states[:1] = start(1, derived_seed(run.seed, "start", i))
            if alter is not None:
                states = alter(states, derived_generator(run.seed, "alter", i))
            fire = derived_seed(run.seed, "fire", i)
            states = run.nca(
                states[share],
                steps=count,
                seed=fire,
                first_sample=share.start,
                bptt_steps=bptt_steps,
                backend=backend,
            )
            terms = objective(states, derived_generator(run.seed, "objective", i))
            rate = learning_rate(i)
            value, values = descend(terms, run.optimizer, rate, tame, i, remedy)
            states = processes.all_gather(states.detach())
            healthy = states.abs().amax(dim=(1, 2, 3), keepdim=True) <= state_limit
            if not healthy.all():
                fresh = start(batch_size, derived_seed(run.seed, "restart", i))
                states = torch.where(healthy, states, fresh)
            run.pool.write(indices, states)
            run.iteration = i + 1

            report = Report(
                iteration=run.iteration,
                loss=value,
                terms=values,
                learning_rate=rate,
                steps=count,
                cell_steps=batch_size * height * width * count,
                seconds=time.perf_counter() - begin,
            )
            for listener in listeners:
                listener(report)
    return run.iteration >= iterations


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
