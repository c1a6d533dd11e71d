"""The folder of a training run: what may begin or go on in it, and with which settings."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nca_fast import checkpoint, processes
from nca_fast.checkpoint import Contents
from nca_fast.choices import OptimizerName
from nca_fast.devices import default_threads
from nca_fast.fields import as_dataclass, field
from nca_fast.files import MODEL_FILE, TRAINING_FILE, remove_leftovers
from nca_fast.training.endurance import ROUNDS
from nca_fast.training.optimizers import moments

try:
    import fcntl
except ImportError:  # of Windows
    fcntl = None

PICTURES_FILE = "pictures.safetensors"
PREVIEW_FILE = "preview.png"
LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class SavedRun:
    """A training checkpoint as it was read."""

    tensors: Contents
    metadata: Contents

    @property
    def iteration(self) -> int:
        """Iterations that were finished."""
        return field(self.metadata, "iteration", int, self.metadata.where, 0)

    @property
    def seconds(self) -> float:
        """Wall time of them."""
        return field(self.metadata, "seconds", float, self.metadata.where, 0)

    @property
    def rounds(self) -> int:
        """How often it has gone on after its end, because its automaton ran away."""
        return field(self.metadata, "rounds", int, self.metadata.where, 0, ROUNDS)

    @property
    def until(self) -> int:
        """The iteration until which it then went on, or 0."""
        return field(self.metadata, "until", int, self.metadata.where, 0)

    def check_run(self, model: nn.Module, optimizer: OptimizerName) -> None:
        """Compares weights and the state of an optimizer with a model.

        Raises:
            ValueError: A tensor is missing or of another shape or kind, or there is one too many.
        """
        shapes = {f"model.{name}": list(weight.shape) for name, weight in model.state_dict().items()}
        if self.iteration:  # there is none before the first
            for name, parameter in model.named_parameters():
                kept = moments(optimizer, parameter)
                shapes |= {f"optimizer.{name}.{moment}": shape for moment, shape in kept.items()}
        for name, shape in shapes.items():
            self.tensors.tensor(name, shape)
        others = [name for name in self.tensors if name.startswith(("model.", "optimizer.")) and name not in shapes]
        if others:
            raise ValueError(f"{self.tensors.where} must hold no others of its model, but has {others[0]!r}.")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes on this machine from training into a folder, which is there, for the length of a block.

    Raises:
        FileExistsError: Another one trains there now.
    """
    if fcntl is None or processes.rank() != 0:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"folder {folder} must be free, but another process trains into it now. Wait for its end, or choose "
                "another folder."
            ) from None
        except OSError:
            pass  # a file system that cannot
        yield
    finally:
        os.close(number)


def open_run(folder: Path, resume: bool, files: Iterable[str] = ()) -> SavedRun | None:
    """Reads the run that a folder holds; None where a new one may begin.

    Args:
        folder: Of the run.
        resume: Whether a run may be there.
        files: Names that the run writes beside the usual ones; what a killed run left of them half-written is removed.

    Raises:
        FileExistsError: The folder holds a run and `resume` is False, or a model without a run, or a file that is none
            of a run's but has the name of one.
    """
    if resume and processes.rank() == 0:
        names = (TRAINING_FILE, MODEL_FILE, PICTURES_FILE, PREVIEW_FILE, LOG_FILE, *files)
        remove_leftovers(*(folder / name for name in names))
    if (folder / TRAINING_FILE).exists():
        if resume:
            return SavedRun(*checkpoint.load(folder / TRAINING_FILE))
        if checkpoint.load_metadata(folder / TRAINING_FILE).get("iteration") == 0:
            return None  # it ended in its first iteration: there is nothing to lose
        raise FileExistsError(
            f"folder {folder} must not hold another run, but it does. Continue that one with --resume (resume=True), "
            "or choose another folder."
        )
    if (folder / MODEL_FILE).exists():
        raise FileExistsError(f"folder {folder} must not hold another model, but it does. Choose another folder.")
    others = [folder / name for name in (PICTURES_FILE, PREVIEW_FILE, LOG_FILE, *files) if (folder / name).exists()]
    others = [path.name for path in others if not _made_by_a_run(path)]
    if others:
        raise FileExistsError(
            f"folder {folder} must not hold files that the run would replace, but has {', '.join(others)}, which no "
            "run of nca_fast left there that could go on. Choose another folder, or move them away."
        )
    return None


def _made_by_a_run(path: Path) -> bool:
    """Sees whether a file is what a run that was killed in its first moment left: pictures.safetensors, alone."""
    if path.name != PICTURES_FILE:
        return False
    try:
        return set(checkpoint.load_metadata(path)) == {"provenance"}
    except (OSError, ValueError):
        return False


def stored_config(system: Any, metadata: Mapping[str, Any], folder: Path) -> Any:
    """The settings that a checkpoint holds as JSON.

    Args:
        system: A `training.system.System`, whose `Config` they are.
        metadata: Of the checkpoint.
        folder: Of the run, for errors.

    Raises:
        ValueError: They are of another system or version.
    """
    if metadata.get("system") != system.name:
        raise ValueError(
            f"the run in {folder} must be one of nca-fast {system.name}, but it is one of nca-fast "
            f"{metadata.get('system')}. Resume it with that command."
        )
    where = f"'config' of the run in {folder}"
    values = field(metadata, "config", dict, f"the run in {folder}")
    unknown = sorted(values.keys() - system.Config.__dataclass_fields__.keys())
    if unknown:
        raise ValueError(
            f"the run in {folder} must have settings of {system.Config.__name__}, but it has {', '.join(unknown)}. "
            "Resume it with the version of nca_fast that began it."
        )
    return as_dataclass(system.Config, values, where, complete=False)


@contextlib.contextmanager
def refused_by(saved: SavedRun | None) -> Iterator[None]:
    """Names the file of a run to resume in what a block refuses.

    Raises:
        ValueError: As the block.
    """
    try:
        yield
    except ValueError as error:
        if saved is None or saved.metadata.where in str(error):
            raise
        raise ValueError(f"the run of {saved.metadata.where} cannot go on: {error}") from error


def resolved_config(system: Any, given: Any, saved: SavedRun | None, folder: Path) -> Any:
    """The settings of a run: where it begins, the given ones, `resolved`; where it goes on, those of its checkpoint,
    and the given ones where they may change (`free_on_resume`). Of the others a given None or "auto" means "as before".

    Raises:
        ValueError: Another setting differs.
    """
    if saved is None:
        return (system.Config() if given is None else given).resolved()
    stored = stored_config(system, saved.metadata, folder)
    if given is None:
        return stored
    free = system.free_on_resume
    changed = {name: value for name, value in asdict(given).items() if value != getattr(stored, name)}
    changed = {name: value for name, value in changed.items() if value not in (None, "auto") or name in free}
    refused = [name for name in changed if name not in free]
    if refused:
        differences = ", ".join(f"{name} (was {getattr(stored, name)!r}, now {changed[name]!r})" for name in refused)
        raise ValueError(
            f"a resumed run must keep its settings, but these differ from those in {folder}: {differences}. "
            f"Leave them as they were, or begin in another folder, from the same weights with --init {folder}."
        )
    if changed.get("minutes", 0) is None:
        del changed["minutes"]
    length, other = ("iterations", "minutes") if stored.minutes is None else ("minutes", "iterations")
    if other in changed:
        raise ValueError(
            f"{other} must be left out, because the run in {folder} goes by {length}: give it more of those."
        )
    if "minutes" in changed:  # the past keeps its place in the plan, and what is left of it its pace
        changed["iterations"] = round(stored.iterations * changed["minutes"] / stored.minutes)
    return replace(stored, **changed)


@contextlib.contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Runs a block with so many CPU threads; None is `devices.default_threads`."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or default_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
