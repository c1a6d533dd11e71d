"""What there is on this machine, or in a model, and whether the kernels here are right."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from nca_fast.compute import ComputeConfig
from nca_fast.pretrained import check_model


@dataclass(frozen=True)
class Info:
    """Say what there is on this machine, for a report of a bug; or what a model is, and how it was made.

    Of a model its rule, channels, size, what it learned, by which command, how good it is, and how to use it:
        nca-fast info zoo:bricks
        nca-fast info runs/brick --json

    Of the machine its devices, packages, and which backend serves what. The C++ kernel is compiled if it has not been
    yet, and whatever is broken is said in its place:
        nca-fast info
    """

    model: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[MODEL]")] = None
    """model.safetensors of a training, its folder, zoo:NAME or hf:USER/NAME. None: this machine."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON, for programs."""

    def check(self) -> None:
        """Raises an error for a model that is not there."""
        if self.model is not None:
            check_model(self.model)

    def run(self, command: str) -> None:
        """Prints all of it."""
        if self.model is not None:
            from nca_fast.commands import describe

            describe.show(self.model, self.json)
            return
        from nca_fast.commands import info

        info.show(self.json)


@dataclass(frozen=True)
class Check:
    """Ask every backend of this machine questions with known answers: fire masks, rollouts and their gradients.

    A line for each question says, for each backend, whether all its numbers are right, and the largest error as a share
    of what rounding allows. The exit status is 1 when one is wrong. For example, after a new driver:
        nca-fast check
    """

    threads: int | None = None
    """CPU threads. None: as other commands take them."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON, for programs."""

    @property
    def compute(self) -> ComputeConfig:
        """All devices are asked, with so many threads."""
        return ComputeConfig(threads=self.threads)

    def check(self) -> None:
        """Raises ValueError for a number of threads that cannot be."""
        self.compute.check_compute()

    def run(self, command: str) -> int:
        """Asks, says what was right and wrong, and returns the exit status."""
        from nca_fast.commands import check

        return check.ask(self.json)
