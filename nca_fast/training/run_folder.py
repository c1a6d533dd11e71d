"""The folder of a training run: what may begin or go on in it, and with which settings."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca_fast import checkpoint, processes
from nca_fast.devices import default_threads
from nca_fast.files import MODEL_FILE

TRAINING_FILE = "training.safetensors"
PICTURES_FILE = "pictures.safetensors"
PREVIEW_FILE = "preview.png"
LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class SavedRun:
    """A training checkpoint as it was read."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def open_run(folder: Path, resume: bool, files: Iterable[str] = ()) -> SavedRun | None:
    """Reads the run that a folder holds; None where a new one may begin.

    Args:
        folder: Of the run.
        resume: Whether a run may be there.
        files: Names that the run writes beside the usual ones; what a killed run left of them half-written is removed.

    Raises:
        FileExistsError: The folder holds a run and `resume` is False, or a model without a run.
    """
    if resume and processes.rank() == 0:
        _remove_leftovers(folder, files)
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
    return None


def _remove_leftovers(folder: Path, files: Iterable[str]) -> None:
    """Removes the temporary files of a run that was killed while it wrote (see `files.atomic_path`)."""
    files = (TRAINING_FILE, MODEL_FILE, PICTURES_FILE, PREVIEW_FILE, LOG_FILE, *files)
    written = "|".join(re.escape(Path(name).stem) for name in files)
    for path in folder.glob(".*.tmp.*"):
        if re.fullmatch(rf"\.({written})\.[0-9a-f]+\.tmp\.\w+", path.name):
            path.unlink(missing_ok=True)


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
    known, values = {field.name for field in fields(system.Config)}, metadata["config"]
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(
            f"the run in {folder} must have settings of {system.Config.__name__}, but it has {', '.join(unknown)}. "
            "Resume it with the version of nca_fast that began it."
        )
    return system.Config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def resolved_config(system: Any, given: Any, saved: SavedRun | None, folder: Path) -> Any:
    """The settings of a run: where it begins, the given ones, `resolved`; where it goes on, those of its checkpoint,
    and the given ones where they may change (`free_on_resume`). Of the others a given None means "as before".

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
    changed = {name: value for name, value in changed.items() if value is not None or name in free}
    refused = [name for name in changed if name not in free]
    if refused:
        differences = ", ".join(f"{name} (was {getattr(stored, name)!r}, now {changed[name]!r})" for name in refused)
        raise ValueError(
            f"a resumed run must keep its settings, but these differ from those in {folder}: {differences}. "
            "Leave them as they were, or begin in another folder."
        )
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
