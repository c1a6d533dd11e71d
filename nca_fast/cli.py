"""The command line: `nca-fast texture`, `style`, `clip`, `vae` and `grow` learn, `nca-fast render` and `apply` show,
`nca-fast zoo` has some ready, `nca-fast info` and `check` look at the machine.

The options are the fields of the dataclasses in `commands` and `systems`, read by tyro. Only `commands` and this print.
"""

import argparse
import contextlib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Union

import torch
import tyro

import nca_fast
from nca_fast import checkpoint, processes
from nca_fast.commands.check import Check
from nca_fast.commands.draw import Apply, Render
from nca_fast.commands.help import join_help
from nca_fast.commands.info import Info
from nca_fast.commands.push import Push
from nca_fast.commands.score import ScoreCommand
from nca_fast.commands.train import TRAIN, Train
from nca_fast.commands.vae import VaeFuse, VaeOutpaint, VaeRepair
from nca_fast.commands.zoo import Zoo
from nca_fast.systems import SYSTEMS
from nca_fast.training import run_folder

DESCRIPTION = """Fast neural cellular automata.

Begin with: nca-fast texture skimage:brick --out runs/brick

Every command has its own help: nca-fast texture --help

The version: nca-fast --version"""

COMMANDS = TRAIN | {
    "render": Render,
    "apply": Apply,
    "score": ScoreCommand,
    "zoo": Zoo,
    "push": Push,
    "vae-fuse": VaeFuse,
    "vae-repair": VaeRepair,
    "vae-outpaint": VaeOutpaint,
    "info": Info,
    "check": Check,
}


def _parse(arguments: Sequence[str]) -> Train | Render | Apply | VaeFuse | VaeRepair | VaeOutpaint | Info | Check:
    """The command that the arguments ask for; tyro prints help and errors, and exits."""
    chosen = arguments[0] if arguments else None
    subcommands = []
    if chosen in COMMANDS:
        join_help(COMMANDS[chosen])
    for name, command in COMMANDS.items():
        # The list of commands shows the first line of each; the help of a command shows all of it.
        options = {} if name == chosen else {"description": command.__doc__.splitlines()[0]}
        begun_with = _begun_with(arguments) if name == chosen and name in SYSTEMS else None
        if begun_with is not None:
            options["default"] = begun_with
        subcommands.append(Annotated[command, tyro.conf.subcommand(name, **options)])
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the name of the program; None takes those of the process.

    Returns:
        The exit code: 0, 1 where `check` found something wrong, 2 after an error that the user can mend, 130 after
        Ctrl-C, 141 when nobody reads the output.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["vae"] and f"vae-{''.join(arguments[1:2])}" in COMMANDS:
        arguments = [f"vae-{arguments[1]}", *arguments[2:]]
    if arguments == ["--version"]:
        print(f"nca-fast {nca_fast.__version__}")
        return 0
    who = "nca-fast"
    try:
        with processes.process_group(), run_folder.cpu_threads(None):
            who = f"nca-fast, process {processes.rank()}" if processes.rank() else who
            command = _parse(arguments)
            if processes.count() > 1 and arguments[0] not in (*SYSTEMS, "render"):
                raise ValueError(f"{arguments[0]} must be one process, but torchrun started {processes.count()}.")
            with contextlib.redirect_stdout(io.StringIO()) if processes.rank() else contextlib.nullcontext():
                status = command.run(shlex.join(["nca-fast", *arguments]))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        return 141
    except KeyboardInterrupt as interrupt:
        print(f"{who}: interrupted{f'; {interrupt}' if interrupt.args else ''}", file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        remedy = "Take a smaller batch, pool, picture or canvas, or fewer steps."
        print(f"{who}: error: memory must suffice, but does not: {_one_line(error)[:200]} {remedy}", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"{who}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return status or 0


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    return " ".join(text.split())
