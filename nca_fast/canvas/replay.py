"""What was done on a canvas of the page, as its replays say: read from JSON, without torch.

The same strokes on a larger canvas are what they would be if all of the canvas were enlarged but its cells: places and
radii grow with it, and so do soft borders; what grows there keeps its size in cells.
"""

import hashlib
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from nca_fast.choices import GridName
from nca_fast.fields import field, parsed_object, typed

VERSION = 1
LARGEST = 64 * 2**20  # bytes of a file
Tool = Literal["erase", "noise", "plant", "paint", "speed"]
Alignment = Literal["cartesian", "polar", "dipole"]
Padding = Literal["circular", "zero", "reflect", "replicate"]
_TOOLS = (*get_args(Tool), "turn")
_SCALES = (0.5, 3.0)  # as in the page
_FAR = 2**24  # cells: how far away a place may be, and so the largest number of a stroke


@dataclass(frozen=True)
class Stroke:
    """A straight stretch of a brush, in cells; places may lie outside of the canvas.

    Args:
        tool: What it does.
        step: Before which step.
        start, end: Row and column.
        radius: How far from the line between them it reaches.
        soft: Share of the radius over which it fades, 0 to 1.
        value: Of "paint" the number of the texture; of "speed" the factor on the fire rate.
    """

    tool: Tool
    step: int
    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    soft: float
    value: float


@dataclass(frozen=True)
class Turn:
    """How cells are turned and scaled from a step on: degrees, what lies along what, and how large."""

    step: int
    angle: float = 0.0
    align: Alignment = "cartesian"
    scale: float = 1.0

    @property
    def straight(self) -> bool:
        """Whether nothing is turned or scaled."""
        return (self.angle, self.align, self.scale) == (0.0, "cartesian", 1.0)


@dataclass(frozen=True)
class Replay:
    """A run of the page.

    Args:
        models: Names of the automata on the canvas.
        weights: Of each, what `checksum` makes of its weights.
        height, width: Of the canvas, in cells.
        seed: Of its start and all its fire masks.
        grid: Shape of the cells; None: that of the models.
        padding: What lies beyond its edges.
        layout: What grew where at first: "mosaic", or the number of the texture that had it all.
        steps: So many were taken.
        events: Strokes and turns, in the order of their steps.
        where: What errors call it.
    """

    models: tuple[str, ...]
    weights: tuple[str, ...]
    height: int
    width: int
    seed: int
    grid: GridName | None
    padding: Padding
    layout: Literal["mosaic"] | int
    steps: int
    events: tuple[Stroke | Turn, ...]
    where: str = "the replay"

    def on(self, height: int, width: int) -> "Replay":
        """The same on a canvas of another size: see the module. A circle stays one, of as many times the area."""
        if (height, width) == (self.height, self.width):
            return self
        down, right = height / self.height, width / self.width
        everything = self.height + self.width  # a stroke that reaches so far still reaches everything

        def there(event):
            if isinstance(event, Turn):
                return event
            radius = math.inf if event.radius >= everything else event.radius * math.sqrt(down * right)
            start, end = ((row * down, column * right) for row, column in (event.start, event.end))
            return replace(event, start=start, end=end, radius=min(radius, height + width))

        return replace(self, height=height, width=width, events=tuple(map(there, self.events)))

    def mark(self) -> str:
        """Makes a name for the run that no other has."""
        return hashlib.sha256(repr(replace(self, where="")).encode()).hexdigest()[:16]


def read_replay(path: Path) -> Replay:
    """Reads a replay that the page has saved.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is no replay, one of another version, or a damaged one: a sentence.
    """
    where = f"the replay {path}"
    if not path.exists():
        raise FileNotFoundError(f"{where} must be a file that a page saved (nca-fast web), but there is none.")
    if path.is_dir():
        raise IsADirectoryError(f"{where} must be a file that a page saved (nca-fast web), but is a folder.")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{where} must have at most {LARGEST} bytes, but has {path.stat().st_size}.")
    page = parsed_object(path.read_bytes(), where)
    if page.get("nca_fast") != VERSION or isinstance(page["nca_fast"], bool):
        raise ValueError(
            f"{where} must say nca_fast: {VERSION}, the version of the format that is read here, but says "
            f"{page.get('nca_fast', 'none')!s:.20}. Save it from a page that this nca_fast made (nca-fast web)."
        )
    models = _strings(page, "models", where)
    weights = _strings(page, "weights", where)
    if not models or len(weights) != len(models):
        raise ValueError(f"{where} must name models and the weights of each, but has {len(models)} and {len(weights)}.")
    steps = field(page, "steps", int, where, 0, 2**32 - 1)
    rows = field(page, "strokes", list, where)
    return Replay(
        models=models,
        weights=weights,
        height=field(page, "height", int, where, 1, 65536),
        width=field(page, "width", int, where, 1, 65536),
        seed=_seed(field(page, "seed", str, where), where),
        grid=field({"grid": None} | page, "grid", GridName | None, where),
        padding=field(page, "padding", Padding, where),
        layout=_layout(page, where),
        steps=steps,
        events=tuple(_events(rows, steps, where)),
        where=where,
    )


def checksum(numbers: Iterable[bytes]) -> str:
    """Names weights, so that a replay tells that it was given others: CRC-32 of their bytes, eight hexadecimal digits.

    Args:
        numbers: float32, little-endian: of each layer its weight and its bias, then learned filters.
    """
    crc = 0
    for part in numbers:
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


def _strings(page, name, where):
    return tuple(typed(str, text, f"{name!r} of {where}") for text in field(page, name, list, where))


def _seed(digits, where):
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and int(digits) < 2**64):
        raise ValueError(f"'seed' of {where} must be decimal digits of a number below 2^64, but is {digits[:30]!r}.")
    return int(digits)


def _layout(page, where):
    if page.get("layout") == "mosaic":
        return "mosaic"
    return field(page, "layout", int, f'{where} (which may also be "mosaic")', 0, 1000)


def _events(rows: list[Any], steps: int, where: str) -> Iterable[Stroke | Turn]:
    last = 0  # below, `typed` takes its time, which a million strokes have not: it is asked for its sentences alone
    for number, row in enumerate(rows):
        what = f"stroke {number} of {where}"
        if type(row) is not list or len(row) < 2:
            typed(list, row, what)
            raise ValueError(f"{what} must be a list of a tool, a step and what it does, but is {row!s:.60}.")
        tool, step, *rest = row
        if tool == "mix":
            raise ValueError(f"{where} is of a VAE run, whose mixed rules are on its page alone: open it there.")
        if tool not in _TOOLS:
            typed(Literal[_TOOLS], tool, f"the tool of {what}")
        if type(step) is not int:
            typed(int, step, f"the step of {what}")
        if not last <= step <= steps:
            raise ValueError(
                f"{what} must come at a step from {last}, that of the one before, to {steps}, the last, but comes at "
                f"{step}."
            )
        last = step
        yield _turn(step, rest, what) if tool == "turn" else _stroke(tool, step, rest, what)


def _turn(step, rest, what):
    angle, align, scale = typed(tuple[float, Alignment, float], rest, what)
    if not 0 <= angle <= 360 or not _SCALES[0] <= scale <= _SCALES[1]:
        raise ValueError(
            f"{what} must turn by 0 to 360 degrees and scale by {_SCALES[0]:g} to {_SCALES[1]:g}, but turns by "
            f"{angle:g} and scales by {scale:g}."
        )
    return Turn(step, angle, align, scale)


def _stroke(tool, step, rest, what):
    plain = len(rest) == 7 and set(map(type, rest)) <= {int, float} and max(rest) <= _FAR and min(rest) >= -_FAR
    numbers = tuple(map(float, rest)) if plain else typed(tuple[(float,) * 7], rest, what)
    radius, soft, value = numbers[4:]
    if not plain or radius <= 0 or not 0 <= soft <= 1:
        raise ValueError(
            f"{what} must have places within {_FAR} cells, a radius above 0 and a softness from 0 to 1, but has "
            f"{', '.join(f'{n:g}' for n in numbers)}."
        )
    if tool == "paint" and not (value.is_integer() and value >= 0):
        raise ValueError(f"{what} must paint with the number of a texture, but paints with {value:g}.")
    if tool == "speed" and not 0 <= value <= 2:
        raise ValueError(f"{what} must multiply the fire rate by a number from 0 to 2, but does so by {value:g}.")
    return Stroke(tool, step, numbers[:2], numbers[2:4], radius, soft, value)
