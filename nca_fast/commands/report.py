"""What the commands say on the terminal."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nca_fast.canvas.journal import journal_path
from nca_fast.commands import streams
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


def finish(files: Sequence[Path], said: Sequence[str] = (), then: Sequence[str] = (), **facts: Any) -> None:
    """Ends a command: says what it wrote, what there is to say about it, and what could be done next; for --json the
    same is kept until its end.

    Args:
        files: What was written, in the order in which a user looks at it.
        said: Lines.
        then: Command lines.
        facts: More for --json, as JSON can hold it.
    """
    written = [{"file": str(path), "bytes": path.stat().st_size} for path in files]
    streams.keep({"files": written, "said": list(said), "next": list(then), **facts})
    width = max((len(str(path)) for path in files), default=0)
    for path, facts in zip(files, written, strict=True):
        print(f"{path!s:<{width}}  {facts['bytes'] / 1024:9.1f} KB")
    lines = [*said, *(f"{'next:' if number == 0 else '     '} {line}" for number, line in enumerate(then))]
    print("".join(f"{line}\n" for line in lines), end="")


def finish_training(result: TrainingResult, score: Score | None = None) -> None:
    """Ends a training: how long and how fast it was, what it wrote, how good that is, and what it has to say; what may
    come next, unless its automaton runs away."""
    said = []
    if result.cell_steps_per_second:
        speed = result.cell_steps_per_second / 1e6
        said = [f"{result.iterations} iterations, {result.seconds:.0f} s, {speed:.1f} million cell-steps/s in training"]
    facts = {"iterations": result.iterations, "seconds": round(result.seconds, 3), "figures": result.figures}
    facts["runs_away"] = None if result.endured is None else result.runs_away
    if score is not None:
        if score.total.says:
            said.append(score.lines()[0].replace("score ", "score of texture.png ", 1))
        facts["score"] = score.as_json()
    finish(result.files, [*said, *result.notes], () if result.runs_away else result.then, **facts)
