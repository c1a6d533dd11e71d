"""What commands say of trainings, of what was interrupted, and of the device."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from nca_fast.canvas.journal import journal_path
from nca_fast.commands.ending import finish
from nca_fast.devices import describe
from nca_fast.scoring.score import Score
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


def finish_training(result: TrainingResult, score: Score | None = None) -> None:
    """Ends a training: how long and how fast it was, what it wrote, how good that is, and what it has to say; what may
    come next, unless its automaton runs away."""
    said = []
    if result.cell_steps_per_second:
        speed = result.cell_steps_per_second / 1e6
        done = f"the last {result.iterations - result.resumed_at} in" if result.resumed_at else ""
        took = f"{done} {result.seconds:.0f} s".lstrip()
        said = [f"{result.iterations} iterations, {took}, {speed:.1f} million cell-steps/s in training"]
    facts = {"iterations": result.iterations, "seconds": round(result.seconds, 3), "figures": result.figures}
    facts["runs_away"] = None if result.endured is None else result.runs_away
    if score is not None:
        if score.total.says:
            said.append(score.lines()[0].replace("score ", "score of texture.png ", 1))
        facts["score"] = score.as_json()
    finish(result.files, [*said, *result.notes], () if result.runs_away else result.then, **facts)
