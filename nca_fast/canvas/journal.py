"""The page beside the file of a state that says how far it has come, so that another process can go on.

It is replaced after every strip, in one move. What a process wrote stays when the process is killed; when the machine
itself stops, the last minutes may be lost in its caches, and the run should begin anew.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nca_fast.canvas.band import Position, ring_rows
from nca_fast.canvas.plan import Plan
from nca_fast.fields import field, parsed_object


def journal_path(path: Path) -> Path:
    """Names the journal of a run with that output, which is there as long as the run is not complete."""
    return path.with_name(path.name + ".journal")


def fingerprint(*tensors: Tensor) -> str:
    """Makes a name for numbers that no others have."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Extent:
    """What of a canvas, between two growths, bounds the numbers of its journal.

    Args:
        rows: Of the band.
        reach: Rows of neighbours that a step depends on.
        first, until: Steps at which it begins and ends.
        alone: Whether the band is all of the canvas.
    """

    rows: int
    reach: int
    first: int
    until: int
    alone: bool


class Journal:
    """What is known of a run.

    Args:
        path: The page; it need not exist.
        settings: JSON-able; what the result and the way to it depend on.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.settings = json.loads(json.dumps(settings))

    def save(self, stage: int, plans: Sequence[Plan], position: Position) -> None:
        """Replaces the page."""
        page = {"settings": self.settings, "stage": stage, "position": asdict(position)}
        page["plans"] = [asdict(plan) for plan in plans]
        page["digest"] = _digest(page)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(page), encoding="utf-8")
        os.replace(temporary, self.path)

    def load(self, extents: Sequence[Extent]) -> tuple[int, list[Plan], Position]:
        """Reads stage, plans of all stages, and position of the run that was interrupted.

        Args:
            extents: Of all stages.

        Raises:
            FileNotFoundError: There was none.
            ValueError: It had other settings, or the page is damaged.
        """
        try:
            where = "the journal"
            page = parsed_object(self.path.read_bytes(), where)
            self._check_settings(field(page, "settings", dict, where))
            stage = field(page, "stage", int, where, 0, len(extents) - 1)
            plans = list(field(page, "plans", tuple[Plan, ...], where))
            position = field(page, "position", Position, where)
            _check(extents, stage, plans, position)
            if field(page, "digest", str, where) != _digest(page):
                raise ValueError("'digest' does not belong to the other fields.")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"a run to resume must have left {self.path}, but there is none. It begins anew without --resume."
            ) from None
        except _OtherSettings:
            raise
        except ValueError as error:
            raise ValueError(
                f"{self.path} must be the journal of a run, but it is damaged or of another version: {error} "
                "Remove it and begin anew, without --resume."
            ) from error
        return stage, plans, position

    def _check_settings(self, settings):
        names = [name for name in self.settings | settings if self.settings.get(name) != settings.get(name)]
        if names:
            changes = ", ".join(
                f"{name} (was {_short(settings.get(name))}, now {_short(self.settings.get(name))})" for name in names
            )
            raise _OtherSettings(
                f"a resumed run must keep its settings, but these differ: {changes}. Leave them as they were, or "
                f"remove {self.path} and begin anew."
            )

    def remove(self) -> None:
        """Removes the page of a run that is over."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".tmp").unlink(missing_ok=True)


class _OtherSettings(ValueError):
    """The run is not that of the page, which is whole."""


def _digest(page):
    """Makes a name for all that the page says beside it."""
    said = json.dumps({name: value for name, value in page.items() if name != "digest"}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _check(extents: Sequence[Extent], stage: int, plans: Sequence[Plan], position: Position) -> None:
    """Raises ValueError for numbers that no run of these extents has."""
    if len(plans) != len(extents):
        raise ValueError(f"'plans' must be {len(extents)}, but are {len(plans)}.")
    for i, (plan, extent) in enumerate(zip(plans, extents, strict=True)):
        where, name = asdict(plan), f"plan {i}"
        field(where, "strip_rows", int, name, 1, extent.rows)
        field(where, "steps_per_pass", int, name, 1, 2**32 - 1)
        full = extent.reach * plan.steps_per_pass
        none = extent.alone and plan.strip_rows == extent.rows
        if plan.halo != full and not (none and plan.halo == 0):
            raise ValueError(f"'halo' of plan {i} must be {full}{' or 0' if none else ''}, but is {plan.halo}.")
        if plan.whole and not plan.in_memory:
            raise ValueError(f"'in_memory' of plan {i} must be true where 'whole' is, but is false.")
    plan, extent, where = plans[stage], extents[stage], asdict(position)
    if plan.in_memory:
        raise ValueError(f"'in_memory' of plan {stage} must be false for a state in a file, but is true.")
    field(where, "step", int, "'position'", extent.first, extent.until)
    field(where, "pass_steps", int, "'position'", 0, min(plan.steps_per_pass, extent.until - position.step))
    halo = extent.reach * (position.pass_steps or plan.steps_per_pass) if plan.halo else 0  # that of the pass before
    for name in ("above", "below"):
        field(where, name, int, "'position'", 0, halo)
    field(where, "row", int, "'position'", 0, extent.rows if position.pass_steps else 0)
    field(where, "base", int, "'position'", 0, ring_rows(extent.rows, plan.halo, plan.shift) - 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:116]} ..."
