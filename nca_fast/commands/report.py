"""What the commands say on the terminal."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from nca_fast.canvas.journal import journal_path
from nca_fast.devices import describe
from nca_fast.training import run_folder
from nca_fast.training.session import TrainingResult


@contextlib.contextmanager
def resume_training(command: str, out: Path) -> Iterator[None]:
    """Adds to a Ctrl-C in training with which command the run in folder `out` is resumed."""
    try:
        yield
    except KeyboardInterrupt as error:
        if (out / run_folder.TRAINING_FILE).exists():
            remedy = f"go on with: nca-fast {command} --out {shlex.quote(str(out))} --resume"
            raise KeyboardInterrupt("; ".join([*error.args, remedy])) from None
        raise


@contextlib.contextmanager
def resume_rendering(command: str, out: Path) -> Iterator[None]:
    """Adds to a Ctrl-C in rendering, or a disk that fails, with which command a run that left its state goes on."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, FileExistsError) or not journal_path(out).exists():
            raise
        remedy = f"go on with: {command}{'' if '--resume' in command.split() else ' --resume'}"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt("; ".join([*error.args, remedy])) from None
        raise OSError(f"{error} The state is kept; {remedy}") from error


def print_device(device: torch.device) -> None:
    """Says on stderr which GPU computes, if one does."""
    line = describe(device)
    if line is not None:
        print(line, file=sys.stderr)


def print_result(result: TrainingResult) -> None:
    """Prints how long and how fast a training was, what it wrote, and what it has to say."""
    if result.cell_steps_per_second:
        speed = result.cell_steps_per_second / 1e6
        print(f"{result.iterations} iterations, {result.seconds:.0f} s, {speed:.1f} million cell-steps/s in training")
    print_files(result.files)
    print("\n".join(result.notes))


def print_files(paths: Sequence[Path]) -> None:
    """Prints files and their sizes."""
    width = max((len(str(path)) for path in paths), default=0)
    for path in paths:
        print(f"{path!s:<{width}}  {path.stat().st_size / 1024:9.1f} KB")
