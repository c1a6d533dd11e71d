"""Commands about this machine: what there is on it, and whether its kernels are right."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from nca_fast.compute import ComputeConfig


@dataclass(frozen=True)
class Info:
    """Say what there is on this machine, and which backend serves what: paste it into a report of a bug.

    The C++ kernel is compiled if it has not been yet. Whatever is broken is said in its place:
        nca-fast info
        nca-fast info --json
    """

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON, for programs."""

    def run(self, command: str) -> None:
        """Prints all of it."""
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
