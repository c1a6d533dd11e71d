"""The command line: `nca-fast texture`, `style`, `clip`, `vae` and `grow` learn, `nca-fast render` and `apply` show,
`nca-fast zoo` has some ready, `nca-fast info` and `check` look at the machine.

The options are the fields of the dataclasses in `commands` and `systems`, read by tyro. Only `commands` and this print.
What takes long to import is imported in here, where Ctrl-C is heard.
"""

import contextlib
import os
import sys
from collections.abc import Sequence

import nca_fast
from nca_fast.commands import streams
from nca_fast.commands.waits import OPENING


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the name of the program; None takes those of the process, whose streams and Ctrl-C are then
            prepared for it. --debug among them shows where in Python an error came from.

    Returns:
        The exit code: 0, 1 where `check` found something wrong, 2 after an error that the user can mend, 70 after one
        that nobody foresaw, 130 after Ctrl-C, 141 when nobody reads the output.
    """
    own, parent = arguments is None, os.getppid()
    if own:
        streams.prepare()
    with _interruptible(own):
        from nca_fast.commands import faults
    arguments = sys.argv[1:] if own else list(arguments)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        status = _run(arguments, own, parent) or 0
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if own:
            streams.ignore_interrupts()  # a second Ctrl-C, while this is said
        if debug:
            streams.say(faults.trace(error))
        status, sentence = faults.ending(error, arguments)
        if status != faults.UNREAD:
            streams.say(f"{_who()}: {sentence}")
    if own:
        streams.ignore_interrupts()
    return status


def _run(arguments: list[str], own: bool, parent: int) -> int | None:
    if arguments == ["--version"]:
        print(f"nca-fast {nca_fast.__version__}")
        return 0
    with _interruptible(own):
        import shlex

        from nca_fast.commands.parser import joined, parse, says
        from nca_fast.systems import TASKS
    said, words = says(joined(arguments))
    try:
        command = parse(words)
    except SystemExit:  # after help, which shall be printed before anything is too late to be said
        sys.stdout.flush()
        raise
    if hasattr(command, "compute"):
        command.compute.check_compute()
    if hasattr(command, "check"):
        command.check()
    if not getattr(command, "needs_torch", True):
        with said():
            return command.run(shlex.join(["nca-fast", *arguments]))
    early = streams.quiet if said is streams.quiet else contextlib.nullcontext
    with _interruptible(own), early(), streams.waiting("loading PyTorch"):
        from nca_fast import processes
        from nca_fast.training import run_folder
    threads = command.compute.threads if hasattr(command, "compute") else None
    with streams.heard_after_imports(), processes.process_group(parent), run_folder.cpu_threads(threads):
        if processes.count() > 1 and words[0] not in (*TASKS, "render"):
            raise ValueError(f"{words[0]} must be one process, but torchrun started {processes.count()}.")
        computes = getattr(command, "compute", None) or getattr(command, "config", None)
        if computes is not None and computes.backend in (None, "cpu"):
            with early():
                _compile()
        with streams.quiet() if processes.rank() else said(), streams.waiting(OPENING):
            return command.run(shlex.join(["nca-fast", *arguments]))


def _compile() -> None:
    """Compiles the C++ kernel where that has not been done, and says that it takes its time."""
    from nca_fast import backends
    from nca_fast.kernels.cpu import build

    if build.status().source == "not compiled yet":
        with streams.waiting("compiling the C++ kernel for this CPU, once, some 10 s", in_logs=True):
            backends.trouble("cpu")


def _interruptible(own: bool) -> contextlib.AbstractContextManager[None]:
    return streams.ended_by_interrupt(f"{_who()}: interrupted") if own else contextlib.nullcontext()


def _who() -> str:
    """The program, and which of several processes this is, if it is not the first."""
    rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
    return "nca-fast" if rank == "0" else f"nca-fast, process {rank}"
