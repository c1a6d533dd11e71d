"""What the one skeleton of training asks of a system, and what systems that train on a pool of states share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from nca_fast import processes
from nca_fast.canvas.memory import free_memory
from nca_fast.devices import generator_on, moved
from nca_fast.media.images import source_name
from nca_fast.nca import NCA
from nca_fast.sizes import in_words, parse_bytes
from nca_fast.training.descent import Descent, normalize_gradients
from nca_fast.training.endurance import LEAST, Endurance, Endured, endure
from nca_fast.training.loop import Work, derived_generator, derived_seed
from nca_fast.training.pool import Objective, Pool, PoolStep
from nca_fast.training.run_folder import SavedRun
from nca_fast.training.settings import PoolConfig, RunConfig


class System(Protocol):
    """One thing that people train an automaton for. An object lives as long as a training; `session` calls its methods.
    What the command line knows of it without it is its `training.task.Task`.

    Class attributes:
        name: Of the command.
        Sources: A frozen dataclass of what is learned: pictures, texts. Its fields have defaults, which say "none".
        Config: A frozen dataclass of settings.
        free_on_resume: Names of settings that may change when a run is resumed.
        files: Names of the pictures and films that `draw` writes.
        remedy: What a user is told to train with when the loss became infinite.
        slower: So many times what the first iterations take is what later ones of as many steps will.
        opens: What is waited for while an object is made, such as "reading pictures".

    Attributes:
        config: The settings, resolved.
        facts: JSON-able facts for model and training files: which pictures, which texts.
    """

    name: ClassVar[str]
    Sources: ClassVar[type]
    Config: ClassVar[type[RunConfig]]
    free_on_resume: ClassVar[tuple[str, ...]]
    files: ClassVar[tuple[str, ...]]
    remedy: ClassVar[str]
    slower: ClassVar[float]
    opens: ClassVar[str]
    config: RunConfig
    facts: dict[str, Any]

    def __init__(self, config: RunConfig, sources: Any, saved: SavedRun | None, out: Path):
        """Opens pictures and texts, or those of the run to resume.

        Args:
            config: The settings; `resolved` by now.
            sources: A `Sources`.
            saved: The run to resume, or None.
            out: The run's folder, for errors and for files beside the checkpoint.

        Raises:
            ValueError: Something is missing, unreadable, or differs from the run to resume.
        """

    @classmethod
    def opening(cls, sources: Any) -> list[str]:
        """Says in some lines, before all work, how a `Sources` was understood."""

    def beginning(self) -> list[str]:
        """Says in some lines, before all work, how the settings were completed."""

    def forecast(self, iterations: int) -> list[str]:
        """Says, after the first iterations, what a run of so many will give, in some half-sentences."""

    def summed(self) -> int:
        """Says by what the loss is divided to be that of a cell: over so many it is a sum."""

    def model(self) -> nn.Module:
        """Makes the model with fresh weights, on the CPU. It has a `rule`, a `device`,
        `config()` and `save_pretrained()`."""

    def prepares(self) -> str:
        """Says what `begin` takes its time for."""

    def begin(self, model: nn.Module, saved: SavedRun | None) -> None:
        """Makes ready for `step`, on the device of the model, which has its weights by now."""

    def constants(self) -> dict[str, Tensor]:
        """What a resumed run needs and no iteration changes; it is saved once, in pictures.safetensors."""

    def adjust_gradients(self, parameters: list[Tensor]) -> None:
        """Changes gradients in place before the optimizer sees them."""

    def step(self, iteration: int, planned: int, descend: Descent) -> Work:
        """Does an iteration; see `loop.train`."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside weights and optimizer."""

    def references(self) -> list[Tensor]:
        """The pictures that begin preview.png, [3, h, w] in [0, 1] each."""

    def preview(self) -> Tensor:
        """Draws what has been learned so far, [3, H, W] in [0, 1], of the same size each time."""

    def draw(self, out: Path, progress: bool, iterations: int, films: bool = True) -> None:
        """Writes `files`, or some of them; called in the first process alone.

        Args:
            out: Folder.
            progress: Show progress bars on stderr.
            iterations: Of the run. What nobody asked for must not take long beside them.
            films: Whether films are wanted too.
        """

    def endured(self, iterations: int) -> Endured | None:
        """Tries, after so many iterations, whether the model lasts in long rollouts, or does nothing and returns None;
        called in every process."""

    def figures(self) -> dict[str, float]:
        """Measures what was learned; called in every process."""

    def notes(self, figures: Mapping[str, float]) -> list[str]:
        """Says in some lines what the figures mean."""

    def then(self, out: Path) -> list[str]:
        """Two command lines that may come next, for the run in a folder."""


class PoolSystem(ABC):
    """A system that trains an automaton on a pool of states; its subclasses say with which objective.

    Its settings have a `preset`. A subclass opens its sources into `facts` and `kept` (tensors that the run cannot be
    resumed without), and has a `size` and an `objective`; the other methods it may change.
    """

    remedy: ClassVar[str] = "a lower learning rate or a higher overflow weight"
    slower: ClassVar[float] = 1.0
    opens: ClassVar[str] = "reading pictures"
    config: PoolConfig
    kept: dict[str, Tensor]
    nca: NCA

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Rows and columns of the canvas, in cells."""

    @classmethod
    def opening(cls, sources: Any) -> list[str]:
        """Nothing."""
        return []

    def beginning(self) -> list[str]:
        """As `System.beginning`: nothing."""
        return []

    def forecast(self, iterations: int) -> list[str]:
        """As `System.forecast`: nothing."""
        return []

    def summed(self) -> int:
        """As `System.summed`: those of all states of an iteration."""
        height, width = self.size()
        return self.config.batch_size * height * width

    def model(self) -> NCA:
        """Makes the automaton with fresh weights."""
        return NCA.preset(self.config.preset)

    def start(self, count: int, seed: int) -> Tensor:
        """Makes start states, [count, C, H, W] on the device; seed fixes what is random."""
        return self.nca.initial_state(count, *self.size(), generator=self.noise(seed))

    def noise(self, seed: int) -> torch.Generator:
        """A generator for the noise of start states, on the device where that is a GPU."""
        return generator_on(self.nca.device, torch.Generator().manual_seed(seed))

    @abstractmethod
    def objective(self) -> Objective:
        """Makes the losses of a batch of states, on the device: (states, generator) -> named scalar losses."""

    prepare: Callable[[int], None] | None = None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    restart: Callable[[Tensor, int], Tensor] | None = None
    roll: Callable[..., Tensor] | None = None  # see `PoolStep`
    large_roll: Callable[..., Tensor] | None = None  # what becomes of states of `large_start`; see `endure`

    def prepares(self) -> str:
        """As `System.prepares`."""
        return "trying a first step"

    def begin(self, model: NCA, saved: SavedRun | None) -> None:
        """As `System.begin`."""
        self.nca, config = model, self.config
        self.kept = {name: moved(tensor, self.nca.device) for name, tensor in self.kept.items()}
        states = None
        if saved is not None:  # before anything of that size is made
            shape = (self.pooled(), model.rule.channels, *self.size())
            states = moved(saved.tensors.tensor("pool", shape), self.nca.device)
        else:
            self._check_memory()
        # The first rollout and its gradient compile the kernels, or say why the backend cannot serve.
        self.nca(self.start(1, 0), steps=1, seed=0, **self.config.how).sum().backward()
        self.nca.zero_grad(set_to_none=True)
        states = self.start(self.pooled(), derived_seed(config.seed, "pool")) if states is None else states
        self.step = PoolStep(
            model,
            Pool(states, self.kinds),
            self.objective(),
            self.start,
            config.seed,
            config.batch_size * self.kinds,
            config.steps_at,
            reseed_every=-(-config.reseed_every // self.kinds),  # each kind as often as one alone
            state_limit=config.state_limit,
            disturb=config.disturb,
            prepare=self.prepare,
            augment=self.augment,
            restart=self.restart,
            roll=self.roll,
            bptt_steps=config.bptt_steps,
            **self.config.how,
        )

    def _check_memory(self) -> None:
        """Refuses states for which the memory has no room: a machine that promises more than it has would kill the
        process when they are written. Raises MemoryError as `check_memory`."""
        config = self.config
        steps = min(config.steps_max, config.bptt_steps or config.steps_max)  # whose states the gradient needs
        batch = config.batch_size * self.kinds
        states = self.pooled() + (steps + 2) * -(-batch // processes.count())
        check_memory(
            4 * self.nca.rule.channels * math.prod(self.size()) * states,
            f"{self.pooled()} states of {' x '.join(map(str, self.size()))} cells, and {steps} steps of {batch}",
            self.nca.device,
            config.memory,
        )

    def pooled(self) -> int:
        """How many states live on: of each kind as many as of one alone."""
        return self.config.pool_size * self.kinds

    def constants(self) -> dict[str, Tensor]:
        """As `System.constants`: nothing."""
        return {}

    def adjust_gradients(self, parameters: list[Tensor]) -> None:
        """As `System.adjust_gradients`."""
        if self.config.normalize_gradients:
            normalize_gradients(parameters)

    def tensors(self) -> dict[str, Tensor]:
        """As `System.tensors`."""
        return {"pool": self.step.pool.states} | self.kept

    def large_start(self, side: int, seed: int) -> Tensor:
        """Makes a start state on a square canvas larger than that of the training, [1, C, side, side]. A system whose
        states are of several kinds makes one of each, `large_starts` in all."""
        return self.nca.initial_state(1, side, side, generator=self.noise(seed))

    kinds, large_starts = 1, 1  # of states, of which a batch has as many as `batch_size` says; see `large_start`

    def trial(self) -> Endurance:
        """What the automaton has to endure, where the training was long enough to afford it."""
        return Endurance()

    def endured(self, iterations: int) -> Endured | None:
        """As `System.endured`; it may take a tenth of the time of the training, half of it for `LEAST`."""
        config, budget = self.config, self.spare(iterations) // self.large_starts
        if self.trial().side >= LEAST.side and LEAST.cell_steps <= 5 * budget:
            budget = max(budget, LEAST.cell_steps)
        trial = self.trial().within(budget, max(self.size()))
        if trial is None:
            return None
        seed = self.derived("endurance")
        return endure(self.nca, self.large_start, trial, config.state_limit, seed, self.large_roll, **config.how)

    def spare(self, iterations: int) -> int:
        """How many cell-steps, without gradients, take a tenth of the time of so many iterations, in which a step costs
        five times as much."""
        height, width = self.size()
        longest = (self.config.steps_min + self.config.steps_max) // 2
        return iterations * self.config.batch_size * self.kinds * height * width * longest // 2

    def film_steps(self, usual: int, cells: int, iterations: int) -> int:
        """How many steps a film shows, 0 for none: as many as somebody asked for, or else the usual number, where that
        is not too much for its cells; see `spare`."""
        if usual == 0 or self.config.video_steps is not None:
            return usual and self.config.video_steps
        return usual if usual * cells <= self.spare(iterations) else 0

    def figures(self) -> dict[str, float]:
        """As `System.figures`: none."""
        return {}

    def notes(self, figures: Mapping[str, float]) -> list[str]:
        """As `System.notes`: that many states ran away, if they did."""
        return self.step.notes()

    def derived(self, purpose: str) -> int:
        """The seed of something that the whole run does alike, such as its previews."""
        return derived_seed(self.config.seed, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """The generator of such a thing, on the CPU."""
        return derived_generator(self.config.seed, purpose)


def check_memory(needed: int, what: str, device: torch.device, memory: str | None) -> None:
    """Refuses what needs more memory than a training may take.

    Args:
        needed: Bytes.
        what: It is, in the plural.
        device: Where it will be.
        memory: What the user allows, "2GiB"; None: what is free there.

    Raises:
        MemoryError: It needs more.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    allowed = free if memory is None else parse_bytes(memory)
    if needed > allowed:
        are = "are free" if memory is None else "are allowed (--memory)"
        raise MemoryError(f"{what}, need {in_words(needed)}, and {in_words(allowed)} {are}")


Given = TypeVar("Given")


def given_or_saved(
    what: str,
    given: Given | None,
    read: Callable[[Given], Tensor],
    saved: SavedRun | None,
    out: Path,
    channels: int = 3,
) -> Tensor:
    """The picture to learn: the one that is given, or that of the run to resume, which a given one must equal.

    Args:
        what: How errors call it.
        given: A file, a name or the picture itself; None where there is a run to resume.
        read: Opens what is given.
        saved: The run to resume, which has it as "target", or None.
        out: The run's folder, for errors.
        channels: Of the picture.

    Returns:
        [channels, h, w].

    Raises:
        ValueError: It is not that of the run, or that of the run is damaged.
    """
    if saved is None:
        return read(given)
    target = saved.tensors.tensor("target", (channels, None, None))
    if given is not None and not torch.equal(read(given), target):
        raise ValueError(
            f"{what} must be that of the run in {out}, but {source_name(given) or 'the one given'} shows something "
            "else. Leave it out."
        )
    return target
