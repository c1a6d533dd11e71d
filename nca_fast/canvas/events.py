"""A run of the page on a canvas: what is painted, erased and turned before which step, row by row.

What cells are at a step hangs on their rows and on the step alone, so that a canvas in strips, in bands or resumed
computes the bits of the whole.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor

from nca_fast.canvas.replay import Replay, Stroke, Turn, checksum
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.strokes import Place, first_shares, meets, painted, reaches, slowed_down, touch
from nca_fast.canvas.turning import Turning
from nca_fast.devices import moved
from nca_fast.hexagons import draws_hexagons, on_grid
from nca_fast.nca import NCA
from nca_fast.reference import split
from nca_fast.textures import all_codes


class Events:
    """What a replay does on a canvas.

    Args:
        replay: The run.
        ncas: Its automata, in the order in which it names them.
        height, width: Of the canvas on which it is done again, see `replay.Replay.on`.

    Raises:
        ValueError: It paints textures that there are not, or turns what cannot be turned.
    """

    def __init__(self, replay: Replay, ncas: Sequence[NCA], height: int, width: int):
        ncas = [_bounded(on_grid(nca, replay.grid), replay.padding) for nca in ncas]
        self.replay, self.ncas, first = replay.on(height, width), ncas, ncas[0]
        self.enlarged = (height / replay.height * width / replay.width) ** 0.5
        self.place = Place(height, width, replay.padding == "circular", replay.seed, draws_hexagons(first))
        self.codes = all_codes(first.textures) if first.textures else None
        self.count = len(first.textures) if first.textures else len(ncas)  # of what can be painted
        strokes = [event for event in self.replay.events if isinstance(event, Stroke)]
        painting = [stroke for stroke in strokes if stroke.tool == "paint"]
        slowing = [stroke for stroke in strokes if stroke.tool == "speed"]
        first_layout = 0 if replay.layout == "mosaic" else replay.layout
        most = max([first_layout, *(int(stroke.value) for stroke in painting)])
        if most >= self.count:
            raise ValueError(
                f"{replay.where} must paint with the {self.count} textures that there are, but has {most}."
            )
        if first.rule.alive_channel is None and any(stroke.tool == "plant" for stroke in strokes):
            raise ValueError(f"{replay.where} plants living cells, but its automaton has no alive channel.")
        self._turns = [event for event in replay.events if isinstance(event, Turn)]
        self.turns, self.slows = any(not turn.straight for turn in self._turns), bool(slowing)
        self._strokes: dict[int, list[Stroke]] = {}
        for stroke in strokes:
            self._strokes.setdefault(stroke.step, []).append(stroke)
        self._steps = sorted({event.step for event in replay.events})
        begun = partial(first_shares, replay.layout, self.count, place=self.place, enlarged=self.enlarged)
        self._shares = _Kept(painting, self.place, begun, painted)
        self._speeds = _Kept(slowing, self.place, lambda rows: torch.ones(len(rows), width), slowed_down)
        self._turned = lru_cache(maxsize=4)(lambda turn: Turning(_config(turn), height, width))

    def stretches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cuts steps first to last - 1 where something is done: (begin, end), before whose end it is done."""
        cuts = self._steps[bisect_right(self._steps, first) : bisect_left(self._steps, last)]
        yield from pairwise([first, *cuts, last])

    def touch(self, x: Tensor, rows: Tensor, step: int) -> None:
        """Does to a state what is done to it before a step.

        Args:
            x: Rows of it, on any device; overwritten. [C, R, width]
            rows: Their numbers, int64 [R].
            step: Number of the step.
        """
        rule = self.ncas[0].rule
        strokes = self._strokes.get(step, [])
        for stroke in strokes:
            if stroke.tool in ("erase", "noise", "plant"):
                touch(x, stroke, rows, self.place, rule.frozen, rule.alive_channel)
        if self.codes is not None and (step == 0 or any(stroke.tool == "paint" for stroke in strokes)):
            shares = self.shares(rows, step)
            code = torch.zeros(self.codes.shape[1], *shares.shape[1:])
            for share, numbers in zip(shares, self.codes, strict=True):  # in a fixed order
                code += share * numbers[:, None, None]
            x[: len(code)] = moved(code, x.device)

    def shares(self, rows: Tensor, step: int) -> Tensor:
        """Computes the share of each texture in a step. [count, R, width]; not to be changed"""
        return self._shares.at(step, rows)

    def speeds(self, rows: Tensor, step: int) -> Tensor | None:
        """Computes by what the fire rate is multiplied in a step. [R, width], or None before it ever was"""
        return self._speeds.at(step, rows) if self._speeds.due(step) else None

    def turning(self, step: int) -> Turning | None:
        """Finds how cells are turned in a step; None where they are not."""
        done = bisect_right(self._turns, step, key=lambda turn: turn.step)
        last = self._turns[done - 1] if done else Turn(0)
        return None if last.straight else self._turned(replace(last, step=0))


def weights_sum(nca: NCA) -> str:
    """Makes the checksum by which a replay knows an automaton; see `replay.checksum`."""
    kernels, layers = split(nca.weights, nca.rule)
    tensors = [tensor for layer in layers for tensor in layer if tensor is not None]
    tensors += [] if kernels is None else [kernels]
    return checksum(t.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes() for t in tensors)


class _Kept:
    """A map that strokes change, kept for the rows that were asked for last, as far as it has come.

    Args:
        strokes: In the order of their steps.
        place: The canvas.
        begin: Makes it, of numbers of rows.
        change: Changes it by a stroke, on rows.
    """

    def __init__(self, strokes, place, begin, change):
        self.strokes, self.place, self.begin, self.change = strokes, place, begin, change
        self._reaches = reaches(strokes, place)
        self._rows, self._values, self._done = torch.empty(0, dtype=torch.int64), torch.empty(0), 0

    def due(self, step):
        """Counts the strokes up to a step."""
        return bisect_right(self.strokes, step, key=lambda stroke: stroke.step)

    def at(self, step, rows):
        """Gives the values of rows after all strokes up to a step."""
        due = self.due(step)
        if self._done > due or not torch.equal(self._rows, rows):
            self._rows, self._values, self._done = rows.clone(), self.begin(rows=rows), 0
        if self._done < due:
            met = meets(self._reaches[self._done : due], rows, self.place).nonzero().flatten().tolist()
            for number in met:
                self.change(self._values, self.strokes[self._done + number], rows, self.place)
            self._done = due
        return self._values


def _bounded(nca: NCA, padding: str) -> NCA:
    """An automaton with other edges of its canvas."""
    if nca.rule.padding == padding:
        return nca
    rule = replace(nca.rule, padding=padding)
    there = NCA(rule, rgb_channel=nca.rgb_channel, start=nca.start, textures=nca.textures, maps=nca.maps)
    there.load_state_dict(nca.state_dict())
    return there.to(nca.device)


def _config(turn: Turn) -> CanvasConfig:
    return CanvasConfig(angle=turn.angle, align=None if turn.align == "cartesian" else turn.align, scale=turn.scale)
