"""The command that says how fast this machine runs an automaton, and how fast it could."""

import json
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import tyro

from nca_fast.commands import streams
from nca_fast.commands.again import again
from nca_fast.compute import ComputeConfig

OTHERS = {"eager": "eager", "compile": "torch.compile"}  # as it is typed -> as results call it
ABOVE = (
    "Above its bound is what kept to caches, or what ran while the machine was less busy than for the bound: repeat."
)


@dataclass(frozen=True)
class Profile:
    """Measure how fast this machine runs an automaton, beside what bounds it: multiply-adds and memory.

    The bound comes first, then cell-steps per second (one cell updated once), the share of the bound, and memory:
        nca-fast profile --preset texture --size 128 --batch 4 --steps 64 --backward
        nca-fast profile --size 1024 --batch 1 --steps 8 --against eager,compile
        nca-fast profile --dry-run
    """

    preset: str = "texture"
    """Named automaton to run: texture, style, growing ..."""
    size: int = 128
    """Rows and columns of each canvas."""
    batch: int = 4
    """Canvases."""
    steps: int = 64
    """Steps of a rollout."""
    backward: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With the gradients of the weights, as a training needs them."""
    against: Annotated[str | None, tyro.conf.arg(metavar="eager,compile")] = None
    """Measure stock PyTorch beside it, in turn: eager, torch.compile of it, or both."""
    repeats: int = 5
    """Each is timed so often; the median counts."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say what would be run and what bounds it, and run nothing."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print everything as one JSON object."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    main: ClassVar[tuple[str, ...]] = (
        *("preset", "size", "batch", "steps", "backward"),
        *("against", "dry_run", "device", "threads", "json"),
    )

    @property
    def others(self) -> list[str]:
        """What is measured beside it."""
        return [] if self.against is None else self.against.split(",")

    def check(self) -> None:
        """Raises ValueError for what cannot be measured."""
        self.compute.check_compute()
        for name in ("size", "batch", "steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}.")
        if not set(self.others) <= OTHERS.keys() or len(set(self.others)) < len(self.others):
            raise ValueError(
                f"against must be {', '.join(OTHERS)} or both, as in eager,compile, but got {self.against!r}."
            )

    def run(self, command: str) -> None:
        """Measures, prints each figure as soon as it is known, and says what else could be measured."""
        from nca_fast.commands.ending import finish

        self.measure()
        if not self.json:
            finish((), then=self.then(command))

    def then(self, command: str) -> list[str]:
        """Proposes to measure something else, too: stock PyTorch and gradients, or else more cells."""
        others = [
            {"size": 2 * self.size} if self.against else {"against": "eager,compile"},
            {"batch": 2 * self.batch} if self.backward else {"backward": True},
        ]
        return [again(command, type(self), dry_run=None, **one) for one in others]

    def measure(self) -> None:
        """Measures, and prints each figure as soon as it is known."""
        from nca_fast.nca import NCA
        from nca_fast.profiling import profile
        from nca_fast.sizes import in_words

        device = self.compute.pick(NCA.preset(self.preset).rule)
        work = profile.Work(self.preset, self.batch, self.size, self.steps, self.backward)
        with streams.waiting("measuring what this machine can do at best"):
            best = profile.bound(work, device)
        if not self.json:
            print("\n".join(_bound_in_words(work, device, best)), flush=True)
        speeds = []
        if not self.dry_run:
            others = [OTHERS[name] for name in self.others]
            with streams.waiting("checking the numbers, then measuring"):
                speeds = profile.measure(work, device, others, repeats=self.repeats, **self.compute.how)
        if self.json:
            print(json.dumps(profile.as_json(work, device, best, speeds), indent=1))
            return
        for speed in speeds:
            share = f"{speed.cell_steps_per_second / best.cell_steps_per_second:5.0%} of the bound"
            memory = "" if speed.peak_memory is None else f", peak memory {in_words(speed.peak_memory)}"
            spread = f"({speed.least / 1e6:.2f} to {speed.most / 1e6:.2f})"
            print(f"{speed.name:<14}{speed.cell_steps_per_second / 1e6:9.2f} {spread:<20} {share}{memory}")
        if any(speed.cell_steps_per_second > best.cell_steps_per_second for speed in speeds):
            print(ABOVE)


def _bound_in_words(work, device, best) -> list[str]:
    """Says what is run, and what the device could do at best."""
    from nca_fast.sizes import in_words

    how = "forward and backward" if work.backward else "forward"
    states = f"{in_words(work.state_bytes)} of states"
    lines = [
        f"{work.preset}, {work.batch} x {work.size} x {work.size} cells, {work.steps} steps, {how}, {states}; {device}"
    ]
    if best.operations is None:
        lines.append("multiply-adds: not measured, for want of a C++ compiler")
    else:
        said = f"{best.operations / 1e9:.0f} Gflop/s"
        lines.append(f"multiply-adds {said:<15} allow {best.by_operations / 1e6:9.2f} million cell-steps/s")
    said = f"{best.bandwidth / 1e9:.1f} GB/s"
    lines.append(
        f"memory        {said:<15} allows{best.by_bandwidth / 1e6:9.2f} (less matters where states stay in caches)"
    )
    return [*lines, "million cell-steps/s:"]
