"""From the words of a command line to the command: the table of commands, read by tyro from their fields.

A row's dataclass has a `run(command line)`, and may have a `check()` of what can be seen before torch is loaded and a
`main`, the names of the fields that --help shows where there are many. Its module imports nothing that takes long: the
answer to a mistyped option must not wait for torch (tests/test_start.py). Where its `needs_torch` is False, it is run
without.
"""

import argparse
import contextlib
import inspect
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import tyro

import nca_fast
from nca_fast.commands import help, streams
from nca_fast.commands.apply import Apply
from nca_fast.commands.demo import Demo
from nca_fast.commands.export import Export
from nca_fast.commands.fill import Fill
from nca_fast.commands.machine import Check, Info
from nca_fast.commands.numbers import numbers
from nca_fast.commands.options import Option, options
from nca_fast.commands.profile import Profile
from nca_fast.commands.push import Push
from nca_fast.commands.render import Render
from nca_fast.commands.score import ScoreCommand
from nca_fast.commands.sheet import Sheet
from nca_fast.commands.train import TRAIN, Train
from nca_fast.commands.vae import VaeFuse, VaeOutpaint, VaeRepair
from nca_fast.commands.web import Web
from nca_fast.commands.zoo import Zoo
from nca_fast.files import TRAINING_FILE
from nca_fast.suggestions import closest, did_you_mean
from nca_fast.systems import TASKS

DESCRIPTION = f"""nca-fast {nca_fast.__version__}: fast neural cellular automata.

Begin with:
    nca-fast demo
    nca-fast texture skimage:brick --out runs/brick
    nca-fast render runs/brick --out brick.png"""


@dataclass(frozen=True)
class Completion:
    """Print the script that completes commands, options and their values in a shell, with the Tab key.

    For bash, once; then open a new shell:
        mkdir -p ~/.local/share/bash-completion/completions
        nca-fast completion bash > ~/.local/share/bash-completion/completions/nca-fast

    For zsh, into a folder of its $fpath, as _nca-fast:
        nca-fast completion zsh > ~/.zfunc/_nca-fast
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """Which one."""

    needs_torch: ClassVar[bool] = False

    def run(self, command: str) -> None:
        """Prints it; tyro writes it, and ends the program."""
        _complete(self.shell)


COMMANDS = {
    "demo": Demo,
    **TRAIN,
    "render": Render,
    "apply": Apply,
    "sheet": Sheet,
    "fill": Fill,
    "score": ScoreCommand,
    "zoo": Zoo,
    "web": Web,
    "export": Export,
    "push": Push,
    "vae fuse": VaeFuse,
    "vae repair": VaeRepair,
    "vae outpaint": VaeOutpaint,
    "profile": Profile,
    "info": Info,
    "check": Check,
    "completion": Completion,
}
HELP = ("-h", "--help", "--help-all")


def joined(arguments: Sequence[str]) -> list[str]:
    """Makes one word of the two of `vae fuse`, and of a training's --no-video what it is short for."""
    first = " ".join(arguments[:2])
    if arguments and arguments[0].replace("-", " ") in COMMANDS:  # as completion in a shell writes it
        arguments = [arguments[0].replace("-", " "), *arguments[1:]]
    words = [first, *arguments[2:]] if first in COMMANDS else list(arguments)
    if words and words[0] in TASKS and "--no-video" in words:
        words = [*(word for word in words if word != "--no-video"), "--video-steps", "0"]
    return words


def says(arguments: Sequence[str]) -> tuple[Callable[[], AbstractContextManager[None]], list[str]]:
    """Takes --quiet and --json out of the words: gives what the command is to be run in, and the other words.

    A command that has a --json of its own keeps it.
    """
    own = (
        {option.name for option in options(COMMANDS[arguments[0]])}
        if arguments[:1] and arguments[0] in COMMANDS
        else ()
    )
    taken = {"--quiet"} if "json" in own else {"--quiet", "--json"}
    given = taken.intersection(arguments)
    way = streams.as_json if "--json" in given else streams.quiet if given else contextlib.nullcontext
    return way, [word for word in arguments if word not in taken]


def parse(arguments: Sequence[str]) -> Any:
    """Makes the command that the arguments ask for.

    Raises:
        ValueError: There is no such command or option.
        SystemExit: 0 after help was printed; 2 after tyro has said what else is wrong.
    """
    name, *words = arguments or ["--help"]
    if name in HELP:
        print(help.overview(DESCRIPTION, COMMANDS))
        raise SystemExit(0)
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}. {_meant(name, COMMANDS, 'nca-fast --help')}")
    command = COMMANDS[name]
    if asked := [word for word in words if word in HELP]:
        print(help.command_help(name, command, "--help-all" in asked))
        raise SystemExit(0)
    _check_options(name, command, words)
    parsed = _parsed(name, command, words)
    if name in TASKS and (begun_with := _begun_with(name, words)) is not None:
        parsed = _parsed(name, command, words, begun_with)  # again, because the first time has found all mistakes
    return parsed


def _complete(shell: str) -> None:
    """Prints the completion script of a shell for all commands, of whose names it can have one word."""
    rows = []
    for name, command in COMMANDS.items():
        title = inspect.cleandoc(command.__doc__).splitlines()[0]
        rows.append(Annotated[command, tyro.conf.subcommand(name.replace(" ", "-"), description=title)])
    config = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes)
    script = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(script):
        tyro.cli(Union[tuple(rows)], args=["--tyro-print-completion", shell], prog="nca-fast", config=config)  # noqa: UP007
    for line in script.getvalue().splitlines():  # a description that has lines would be taken for further options
        print(line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC = ") else line)


def _parsed(name: str, command: type, words: Sequence[str], default: Any = None) -> Any:
    given = {} if default is None else {"default": default}
    with _wide_enough(), numbers():
        return tyro.cli(command, args=words, prog=f"nca-fast {name}", config=(tyro.conf.OmitArgPrefixes,), **given)


def _check_options(name: str, command: type, words: Sequence[str]) -> None:
    """Raises ValueError for an option that the command has not, with the one that is most like it, and for a value that
    is none of those among which an option chooses."""
    known = {flag: option for option in options(command) for flag in option.flags}
    for word, after in itertools.zip_longest(words, words[1:]):
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag.startswith("--") and len(flag) > 2 and flag not in known:
            typed = word.partition("=")[0]
            raise ValueError(f"{name} has no option {typed}. {_meant(flag, known, f'nca-fast {name} --help-all')}")
        if flag in known and known[flag].choices:
            _check_choice(known[flag], value if equals else after)


def _check_choice(option: Option, typed: str | None) -> None:
    """Raises ValueError for what is none of the choices of an option."""
    allowed = [*option.choices, *(["None"] if option.default is None else [])]  # tyro's word for what is not given
    if typed is not None and typed not in allowed:
        meant = did_you_mean(closest(typed, option.choices))
        raise ValueError(f"{option.name} must be one of {', '.join(option.choices)}, but got {typed!r}.{meant}")


def _meant(word: str, known: Iterable[str], listed_by: str) -> str:
    """Suggests the known word that is most like one, or where all are listed if none is."""
    return did_you_mean(closest(word, known)).lstrip() or f"All there are: {listed_by}"


def _begun_with(name: str, arguments: Sequence[str]) -> Train | None:
    """The defaults of the options that are not typed: those of the run to resume, or of a recipe.

    Raises ValueError for what must not be typed together.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--recipe")
    parser.add_argument("--iterations")
    parser.add_argument("--minutes")
    known, _ = parser.parse_known_args(arguments)
    make, task = TRAIN[name], TASKS[name]
    if known.iterations is not None and known.minutes is not None:
        raise ValueError(
            f"iterations must be left out where minutes say how long to train, but got {known.iterations} and "
            f"{known.minutes}."
        )
    if known.resume and known.recipe is not None:
        raise ValueError(f"recipe must be left out with --resume, because the run has its settings: {known.recipe!r}.")
    if not known.resume:
        recipe = task.recipes.get(known.recipe)
        return None if recipe is None else make(out=known.out, config=recipe)
    file = known.out / TRAINING_FILE
    if not file.exists():
        return None
    from nca_fast import checkpoint
    from nca_fast.training import run_folder

    return make(out=known.out, config=run_folder.stored_config(task, checkpoint.load_metadata(file), known.out))


@contextlib.contextmanager
def _wide_enough() -> Iterator[None]:
    """Lets a terminal that is too narrow for tyro's errors, which never end there, count as wider."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns >= help.LEAST_COLUMNS:
        yield
        return
    os.environ["COLUMNS"] = str(help.LEAST_COLUMNS)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
