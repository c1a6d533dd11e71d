"""The sample pool: states that live on between iterations, so that a rule learns to stay where it arrived.

Source: Mordvintsev et al., "Growing Neural Cellular Automata", Distill 2020; the recipe of an iteration is that of
Niklasson et al., "Self-Organising Textures", Distill 2021, whose PyTorch notebook the defaults of the systems follow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nca_fast import processes
from nca_fast.devices import moved
from nca_fast.nca import NCA
from nca_fast.training.descent import Descent
from nca_fast.training.disturbance import disturbed
from nca_fast.training.loop import Work, derived_generator, derived_seed

MANY = 0.2  # of the states that were trained: less is chance, or the beginning of a run

Objective = Callable[[Tensor, torch.Generator], dict[str, Tensor]]


class Pool:
    """The states from which each iteration takes a batch and into which it writes the results.

    Args:
        states: One sample per row; the pool owns the tensor and writes into it. [N, C, H, W]
        kinds: The states are of so many kinds, in turns, and a batch has equally many of each.

    Raises:
        ValueError: The tensor has another rank or no element.
    """

    def __init__(self, states: Tensor, kinds: int = 1):
        if states.ndim != 4 or states.numel() == 0:
            raise ValueError(
                f"pool states must be a non-empty [N, C, H, W] tensor, but got shape {list(states.shape)}."
            )
        self.states, self.kinds = states, kinds

    def __len__(self) -> int:
        return len(self.states)

    def sample(self, batch_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws a batch without replacement.

        Args:
            batch_size: Number of states, at most the size of the pool.
            generator: Decides alone which; on the CPU, so that every device trains on the same samples.

        Returns:
            Their indices, int64 [batch_size], and copies of them that may be changed freely, [batch_size, C, H, W].

        Raises:
            ValueError: The batch is larger than the pool, or not positive.
        """
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"batch size must be from 1 to the size of the pool, {len(self)}, but got {batch_size}.")
        drawn = torch.randperm(len(self), generator=generator)
        if self.kinds > 1:  # the first of each kind in this order, which stays as it is
            rank = torch.stack([(drawn % self.kinds == kind).cumsum(0) for kind in range(self.kinds)])
            drawn = drawn[rank.gather(0, drawn[None] % self.kinds)[0] <= batch_size // self.kinds]
        drawn = drawn[:batch_size]
        indices = moved(drawn, self.states.device)
        return indices, self.states[indices]

    def write(self, indices: Tensor, states: Tensor, where: Tensor | None = None) -> None:
        """Stores the results of a batch, without their history.

        Args:
            indices: Of an earlier `sample`. [batch_size]
            states: [batch_size, C, H, W].
            where: bool [] on the device: False leaves the pool as it is. None is True.
        """
        states = states.detach().to(self.states.dtype)
        if where is not None:
            states = torch.where(where, states, self.states[indices])
        self.states[indices] = states


@dataclass
class PoolStep:
    """An iteration on a pool: sample, roll out, loss, descend, write back. What `loop.train` takes as its step.

    Args:
        nca: The automaton.
        pool: The states it works on.
        objective: (states [B, C, H, W], generator) -> named scalar losses, sums over samples.
        start: (count, seed) -> start states [count, C, H, W].
        seed: Fixes all randomness.
        batch_size: Samples in an iteration; several processes share them evenly (see `processes`).
        steps: Planned iteration -> the shortest and the longest rollout. The number of steps is drawn evenly between
            them, both included (the notebook's randint(32, 96) ends at 95).
        reseed_every: So often the first sample of the batch is replaced by a start state; 0 never does.
        state_limit: A sample whose state went beyond this in any value starts afresh. Left in the pool, it would grow
            until the loss overflows, and would turn the weights in a senseless direction each time that it is drawn.
        disturb: Probability that a state is disturbed before its rollout (see `disturbance`).
        prepare: (planned iteration) makes ready for it, before anything else: what is learned may change on the way.
        augment: (the batch as it came from the pool, generator) -> the states that the rollout starts from. None:
            these.
        bptt_steps, backend, precision: As in `nca_fast.rollout`.
        restart: (states [count, C, H, W], seed) -> start states in their place. None: `start`, whatever they are.
        roll: (states, steps=, and more of `nca_fast.rollout`) -> what becomes of them. None: the automaton itself.
    """

    nca: NCA
    pool: Pool
    objective: Objective
    start: Callable[[int, int], Tensor]
    seed: int
    batch_size: int
    steps: Callable[[int], tuple[int, int]]
    reseed_every: int = 0
    state_limit: float = math.inf
    disturb: float = 0.0
    prepare: Callable[[int], None] | None = None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    bptt_steps: int | None = None
    backend: str | None = None
    precision: str | None = None
    restart: Callable[[Tensor, int], Tensor] | None = None
    roll: Callable[..., Tensor] | None = None
    trained: int = field(default=0, init=False)  # states, since this object was made
    began_anew: int | Tensor = field(default=0, init=False)  # of them, because they ran away; on the device

    def __call__(self, iteration: int, planned: int, descend: Descent) -> Work:
        """Does an iteration; see `loop.train`."""
        if self.prepare is not None:
            self.prepare(planned)
        share = processes.share(self.batch_size)
        draw = derived_generator(self.seed, "pool", iteration)
        shortest, longest = self.steps(planned)
        count = int(torch.randint(shortest, longest + 1, (), generator=draw))
        indices, states = self.pool.sample(self.batch_size, draw)
        if self.reseed_every and iteration % self.reseed_every == 0:
            states[:1] = self._fresh(states[:1], derived_seed(self.seed, "start", iteration))
        if self.disturb:
            strange = derived_generator(self.seed, "disturb", iteration)
            states = disturbed(states, self.pool.states, self.disturb, self.nca.rule.frozen, strange)
        if self.augment is not None:
            states = self.augment(states, derived_generator(self.seed, "alter", iteration))
        roll = self.nca if self.roll is None else self.roll
        states = roll(
            states[share],
            steps=count,
            seed=derived_seed(self.seed, "fire", iteration),
            first_sample=share.start,
            bptt_steps=self.bptt_steps,
            backend=self.backend,
            precision=self.precision,
        )
        descend(self.objective(states, derived_generator(self.seed, "objective", iteration)))
        states = processes.all_gather(states.detach())
        healthy = states.abs().amax(dim=(1, 2, 3), keepdim=True) <= self.state_limit
        if not healthy.is_cpu or not healthy.all():  # on a GPU states are made anew sooner than the host has looked
            fresh = self._fresh(states, derived_seed(self.seed, "restart", iteration))
            states = torch.where(healthy, states, fresh)
            self.began_anew = self.began_anew + (~healthy).sum()
        self.trained += self.batch_size
        self.pool.write(indices, states, descend.finite)
        return Work(count, self.batch_size * states.shape[2] * states.shape[3] * count)

    def notes(self) -> list[str]:
        """Says that many states ran away, if they did: a pool of young ones teaches neither to stay nor to mend."""
        share = int(self.began_anew) / max(1, self.trained)
        if share < MANY:
            return []
        return [
            f"{share:.0%} of the states went beyond +-{self.state_limit:g} and began anew, so that little was learned "
            "of old ones: a larger --overflow-weight keeps values small, a larger --state-limit lets them be"
        ]

    def _fresh(self, states: Tensor, seed: int) -> Tensor:
        return self.start(len(states), seed) if self.restart is None else self.restart(states, seed)
