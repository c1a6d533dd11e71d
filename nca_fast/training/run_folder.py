"""The folder of a training run: what may begin or go on in it, and with which settings."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from nca_fast import checkpoint, processes

TRAINING_FILE = "training.safetensors"
MODEL_FILE = "model.safetensors"
PICTURES_FILE = "pictures.safetensors"

Config = TypeVar("Config")


@dataclass(frozen=True)
class SavedRun:
    """A training checkpoint as it was read."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def open_run(folder: Path, resume: bool) -> SavedRun | None:
    """The run that a folder holds, or None where a new one may begin.

    Raises:
        FileExistsError: The folder holds a run and `resume` is False, or a model without a run.
    """
    if resume and processes.rank() == 0:
        _remove_leftovers(folder)
    if (folder / TRAINING_FILE).exists():
        if resume:
            return SavedRun(*checkpoint.load(folder / TRAINING_FILE))
        raise FileExistsError(
            f"folder {folder} must not hold another run, but it does. Continue that one with --resume (resume=True), "
            "or choose another folder."
        )
    if (folder / MODEL_FILE).exists():
        raise FileExistsError(f"folder {folder} must not hold another model, but it does. Choose another folder.")
    return None


def _remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of a run that was killed while it wrote (see `files.atomic_path`)."""
    for path in folder.glob(".*.tmp.*"):
        written = "training|model|pictures|preview|texture|restyled|clip|log"
        written += "|reconstructions|samples|interpolation|growth|growing|regrowth"
        if re.fullmatch(rf"\.({written})\.[0-9a-f]+\.tmp\.\w+", path.name):
            path.unlink(missing_ok=True)


def stored_config(config_class: type[Config], values: Mapping[str, Any], folder: Path) -> Config:
    """The settings that a checkpoint holds as JSON.

    Raises:
        ValueError: They are of another task or version.
    """
    known = {field.name for field in fields(config_class)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(
            f"the run in {folder} must have settings of {config_class.__name__}, but it has {', '.join(unknown)}. "
            "Resume it with the version of nca_fast that began it."
        )
    return config_class(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def settled_config(given: Config, saved: SavedRun | None, free: tuple[str, ...], folder: Path) -> Config:
    """The settings of a run: `settled` where it begins, those of `agreed_config` where it goes on."""
    if saved is None:
        return given.settled()
    return agreed_config(given, saved.metadata["config"], free, folder)


def agreed_config(given: Config, values: Mapping[str, Any], free: tuple[str, ...], folder: Path) -> Config:
    """The settings with which a run goes on: those of its checkpoint, and the given ones where they are free.

    A given None means "as before".

    Raises:
        ValueError: Another setting differs.
    """
    stored = stored_config(type(given), values, folder)
    changed = {name: value for name, value in asdict(given).items() if value not in (None, getattr(stored, name))}
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
    """Runs a block with so many CPU threads; None leaves PyTorch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
