"""What watches a training: progress bar and log, called with a `loop.Report`, and checkpoints and the preview strip,
which are a `loop.Moment`."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from nca_fast.devices import describe
from nca_fast.fields import field, parsed_object
from nca_fast.files import atomic_path
from nca_fast.media.images import image_grid, save_image
from nca_fast.training.loop import Report
from nca_fast.training.stopwatch import Stopwatch

STRIP_COLUMNS = 12


class ProgressBar:
    """Shows a tqdm bar with the loss, of a cell if it is a sum over cells, and the speed in cell-steps/s; a context
    manager.

    Args:
        iterations: Length of the whole plan.
        first: Where in it the run begins.
        shown: False draws nothing.
        device: Where it computes; a GPU is named.
        timed: Whether a time limit may carry the plan further than the iterations; then the bar shows both.
        cells: Over so many the loss is a sum, so that it can be compared between canvases.
    """

    def __init__(
        self,
        iterations: int,
        first: int = 0,
        shown: bool = True,
        device: torch.device | None = None,
        timed: bool = False,
        cells: int = 1,
    ):
        what, self.timed = (device and describe(device)) or "training", timed
        self.cells = cells
        how = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"} if timed else {}
        how |= {"unit": "it", "dynamic_ncols": True, "disable": not shown}
        self.bar = tqdm(total=iterations, initial=first, desc=what, **how)

    def __call__(self, report: Report) -> None:
        done = f"{report.iteration} iterations, " if self.timed else ""
        said = f"{done}loss {report.loss / self.cells:.3g}, {report.speed / 1e6:.1f} Mcell-steps/s"
        self.bar.set_postfix_str(said, refresh=False)
        self.bar.update(report.planned - self.bar.n)

    def go_on(self, iteration: int, until: int) -> None:
        """Begins anew, beyond the plan: from an iteration to another, which reports then have as `planned`."""
        self.bar.reset(total=until)
        self.bar.initial = self.bar.n = iteration

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


class JsonLog:
    """Writes one JSON object per line and iteration; a context manager. Losses of iterations left out are null.

    Args:
        path: The file. Lines of iterations after `first` (a killed run wrote them after its last checkpoint) and a
            torn last line are dropped.
        first: Iterations that were finished before.

    Raises:
        ValueError: A line but the last is damaged.
    """

    def __init__(self, path: Path, first: int = 0):
        self.path = path
        kept = _lines_until(path, first) if path.exists() else []
        with atomic_path(path) as temporary:
            Path(temporary).write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, report: Report) -> None:
        line = {
            "iteration": report.iteration,
            "planned": report.planned,
            **{name: _number(value) for name, value in {"loss": report.loss, **report.terms}.items()},
            "learning_rate": report.learning_rate,
            "steps": report.steps,
            "seconds": round(report.seconds, 6),
            "cell_steps_per_second": round(report.speed),
        }
        try:
            self.file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OSError(error.errno, f"cannot write the log ({error.strerror})", str(self.path)) from error

    def __enter__(self) -> "JsonLog":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write that met it
            self.file.close()


def _number(value: float) -> float | None:
    """A number as JSON can say it: null where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def _lines_until(path: Path, last: int) -> list[str]:
    """The whole lines of a log up to iteration `last`."""
    kept, lines = [], path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        where = f"line {number} of {path}"
        try:
            if field(parsed_object(line, where), "iteration", int, where) > last:
                break
        except ValueError as error:
            if number == len(lines):  # torn by the end of the process that wrote it
                break
            raise ValueError(f"{error} Move the log away, and the run goes on with a new one.") from error
        kept.append(line.decode())
    return kept


class Checkpoints:
    """Saves when so many iterations or so much time has passed since the last save, whichever comes first.

    Args:
        save: What to call.
        every: Iterations, or None for no such limit.
        seconds: Wall time, in seconds.
    """

    def __init__(self, save: Callable[[], None], every: int | None, seconds: float):
        self.save, self.every, self.seconds = save, every, seconds
        self.watch, self.waited = Stopwatch(), 0.0

    def due(self, iteration: int, planned: int) -> bool:
        """Whether it is time to save."""
        by_number = self.every is not None and iteration % self.every == 0
        self.waited += self.watch.lap()
        return by_number or self.waited >= self.seconds

    def __call__(self) -> None:
        """Saves."""
        self.save()
        self.watch, self.waited = Stopwatch(), 0.0


class PreviewStrip:
    """Small pictures in the order of training, what is learned first, in one PNG that grows.

    Args:
        path: The file.
        references: What is learned, one or more of [3, h, w] in [0, 1].
        draw: Makes a preview, [3, H, W] in [0, 1], of the same size each time.
        every: Iterations between two of them, in the plan.
        first: Where in the plan the run begins.
        pictures: Earlier previews of the same run, uint8 [N, 3, H, W], or None.
    """

    def __init__(
        self,
        path: Path,
        references: Sequence[Tensor],
        draw: Callable[[], Tensor],
        every: int,
        first: int = 0,
        pictures: Tensor | None = None,
    ):
        self.path, self.draw, self.every, self.planned = path, draw, every, first
        self.references = [picture.cpu() for picture in references]
        self.pictures = [] if pictures is None else list(pictures)

    def due(self, iteration: int, planned: int) -> bool:
        """Whether it is time for a preview."""
        before, self.planned = self.planned, planned
        return planned // self.every > before // self.every

    def __call__(self) -> None:
        """Adds a preview."""
        self.pictures.append((self.draw().detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8))
        self.write()

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        return {"previews": torch.stack(self.pictures)} if self.pictures else {}

    def write(self) -> None:
        """Writes the file, if there is a preview. (A killed run may have drawn more after its last checkpoint.)"""
        if not self.pictures:
            return
        # What is learned may be oblong where the canvas is square: on white, in the middle.
        pictures = [*self.references, *(picture / 255 for picture in self.pictures)]
        height, width = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))
        pictures = [_centred(picture, height, width) for picture in pictures]
        save_image(image_grid(pictures, columns=STRIP_COLUMNS), self.path)


def _centred(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture [3, h, w] in the middle of a white one [3, height, width]."""
    page = picture.new_ones(3, height, width)
    top, left = (height - picture.shape[1]) // 2, (width - picture.shape[2]) // 2
    page[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
    return page
