"""Commands that train, one for each system, made of its sources and settings."""

import sys
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from nca_fast.commands.report import print_result, resume_training
from nca_fast.systems import SYSTEMS
from nca_fast.training.session import run_training
from nca_fast.training.system import System

_OUT = tyro.conf.arg(metavar="DIR", help="Folder for the results; made when missing.")
_RESUME = tyro.conf.arg(help="Go on with the run in DIR. More iterations may be asked for.")


class Train:
    """What all these commands do. A subclass, made by `command`, has the fields out, sources, resume and config."""

    system: type[System]

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        print("".join(f"{line}\n" for line in self.system.opening(self.sources)), end="", flush=True)
        with resume_training(self.system.name, self.out):
            result = run_training(
                self.system, self.sources, self.out, self.config, resume=self.resume, command=command, say=_say
            )
        print_result(result)
        if result.endured is not None and result.endured.runaway is not None:
            raise FloatingPointError(
                f"the automaton must last, but it {result.endured}, although the training went on. Train again with "
                f"{self.system.remedy}, longer, or with another seed."
            )


def command(system: type[System]) -> type[Train]:
    """Makes the command that trains a system."""
    fields = [
        ("out", Annotated[Path, _OUT]),
        ("sources", _flat(system.Sources), field(default_factory=system.Sources)),
        ("resume", Annotated[bool, tyro.conf.FlagCreatePairsOff, _RESUME], False),
        ("config", _flat(system.Config), field(default_factory=system.Config)),
    ]
    if system.recipes:
        recipe = tyro.conf.arg(help=" ".join(system.recipe_help.split()))
        fields.insert(2, ("recipe", Annotated[Literal[tuple(system.recipes)] | None, recipe], None))
    made = make_dataclass(system.__name__, fields, bases=(Train,), frozen=True, namespace={"system": system})
    made.__doc__ = system.__doc__
    return made


def _say(line: str) -> None:
    tqdm.write(line)  # above the bar, if there is one
    sys.stdout.flush()


def _flat(fields: type) -> type:
    """A dataclass whose fields are options of their own names."""
    return Annotated[fields, tyro.conf.arg(name="")]


TRAIN = {name: command(system) for name, system in SYSTEMS.items()}
