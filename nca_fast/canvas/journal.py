"""The page beside the file of a state that says how far it has come, so that another process can go on.

It is replaced after every strip, in one move. What a process wrote stays when the process is killed; when the machine
itself stops, the last minutes may be lost in its caches, and the run should begin anew.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from nca_fast.canvas.band import Position
from nca_fast.canvas.plan import Plan


def journal_path(path: Path) -> Path:
    """Names the journal of a run with that output, which is there as long as the run is not complete."""
    return path.with_name(path.name + ".journal")


def fingerprint(*tensors: Tensor) -> str:
    """Makes a name for numbers that no others have."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


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
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(page), encoding="utf-8")
        os.replace(temporary, self.path)

    def load(self) -> tuple[int, list[Plan], Position]:
        """Reads stage, plans of all stages, and position of the run that was interrupted.

        Raises:
            FileNotFoundError: There was none.
            ValueError: It had other settings, or the page is damaged.
        """
        try:
            page = json.loads(self.path.read_text(encoding="utf-8"))
            settings, stage = page["settings"], page["stage"]
            plans, position = [Plan(**plan) for plan in page["plans"]], Position(**page["position"])
        except FileNotFoundError:
            raise FileNotFoundError(
                f"a run to resume must have left {self.path}, but there is none. It begins anew without --resume."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} must be the journal of a run, but it is damaged or of another version ({error}). "
                "Remove it and begin anew."
            ) from error
        names = [name for name in self.settings | settings if self.settings.get(name) != settings.get(name)]
        if names:
            changes = ", ".join(
                f"{name} (was {settings.get(name)!r}, now {self.settings.get(name)!r})" for name in names
            )
            raise ValueError(
                f"a resumed run must keep its settings, but these differ: {changes}. Leave them as they were, or "
                f"remove {self.path} and begin anew."
            )
        return stage, plans, position

    def remove(self) -> None:
        """Removes the page of a run that is over."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(self.path.name + ".tmp").unlink(missing_ok=True)
