"""From the words of a command line to the command: the table of commands, read by tyro from their fields."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Union

import tyro

from nca_fast import checkpoint
from nca_fast.commands.check import Check
from nca_fast.commands.draw import Apply, Render
from nca_fast.commands.help import join_help, wide_enough
from nca_fast.commands.info import Info
from nca_fast.commands.numbers import numbers
from nca_fast.commands.push import Push
from nca_fast.commands.score import ScoreCommand
from nca_fast.commands.sheet import Sheet
from nca_fast.commands.train import TRAIN, Train
from nca_fast.commands.vae import VaeFuse, VaeOutpaint, VaeRepair
from nca_fast.commands.web import Web
from nca_fast.commands.zoo import Zoo
from nca_fast.systems import SYSTEMS
from nca_fast.training import run_folder

DEBUG = "With --debug an error shows where in Python it came from."
DESCRIPTION = f"""Fast neural cellular automata.

Begin with: nca-fast texture skimage:brick --out runs/brick

Every command has its own help: nca-fast texture --help

The version: nca-fast --version

{DEBUG}"""

COMMANDS = TRAIN | {
    "render": Render,
    "apply": Apply,
    "sheet": Sheet,
    "score": ScoreCommand,
    "zoo": Zoo,
    "web": Web,
    "push": Push,
    "vae fuse": VaeFuse,
    "vae repair": VaeRepair,
    "vae outpaint": VaeOutpaint,
    "info": Info,
    "check": Check,
}


def joined(arguments: Sequence[str]) -> list[str]:
    """Makes one word of the two of `vae fuse`, and of a training's --no-video what it is short for."""
    first = " ".join(arguments[:2])
    words = [first, *arguments[2:]] if first in COMMANDS else list(arguments)
    if words and words[0] in SYSTEMS and "--no-video" in words:
        words = [*(word for word in words if word != "--no-video"), "--video-steps", "0"]
    return words


def parse(arguments: Sequence[str]) -> Train | Render | Apply | VaeFuse | VaeRepair | VaeOutpaint | Info | Check:
    """Makes the command that the arguments ask for; tyro prints help and errors, and exits."""
    chosen = arguments[0] if arguments else None
    subcommands = []
    if chosen in COMMANDS:
        join_help(COMMANDS[chosen])
    for name, command in COMMANDS.items():
        # The list of commands shows the first line of each; the help of a command shows all of it.
        said = inspect.cleandoc(command.__doc__)
        options = {"description": f"{said}\n\n{DEBUG}" if name == chosen else said.splitlines()[0]}
        begun_with = _begun_with(arguments) if name == chosen and name in SYSTEMS else None
        if begun_with is not None:
            options["default"] = begun_with
        subcommands.append(Annotated[command, tyro.conf.subcommand(name, **options)])
    with wide_enough(), numbers():
        return tyro.cli(
            Union[tuple(subcommands)],  # noqa: UP007 (| has no form for a list)
            args=list(arguments) or ["--help"],
            prog="nca-fast",
            description=DESCRIPTION,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )


def _begun_with(arguments: Sequence[str]) -> Train | None:
    """The defaults of the options that are not typed: those of the run to resume, or of a recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--recipe")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # for example --out without a value, which tyro will say better
        return None
    if known.out is None:
        return None
    make, system = TRAIN[arguments[0]], SYSTEMS[arguments[0]]
    if known.resume and known.recipe is not None:
        raise ValueError(f"recipe must be left out with --resume, because the run has its settings: {known.recipe!r}.")
    if not known.resume or not (known.out / run_folder.TRAINING_FILE).exists():
        recipe = system.recipes.get(known.recipe)
        return None if recipe is None else make(out=known.out, config=recipe)
    metadata = checkpoint.load_metadata(known.out / run_folder.TRAINING_FILE)
    return make(out=known.out, config=run_folder.stored_config(system, metadata, known.out))
