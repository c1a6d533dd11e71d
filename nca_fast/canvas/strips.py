"""Passes over a band: k steps of every strip, from its rows and a halo on either side that the steps eat up."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nca_fast.canvas.band import Band, Position
from nca_fast.canvas.colony import Colony
from nca_fast.canvas.exchange import Neighbours
from nca_fast.canvas.memory import zeros
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.streams import CopyStreams, run_pass

CELL_STEPS_PER_CALL = 6_000_000  # some 0.3 s on two cores: so often the progress bar moves


@dataclass(frozen=True)
class Strip:
    """Rows first to first + rows - 1 of a band, computed from rows begin to begin + count - 1."""

    first: int
    rows: int
    begin: int
    count: int

    def inner(self, x: Tensor) -> Tensor:
        """Takes the rows that are right out of what was computed. [C, count, width] -> [C, rows, width]"""
        return x[:, self.first - self.begin : self.first - self.begin + self.rows]


class Passes:
    """Takes a band through its steps.

    Args:
        colony: What runs on the canvas.
        band: Some of its rows, or all.
        plan: How the band is cut.
        position: Changed with every strip.
        neighbours: Of the band, which know its place in the canvas.
        save: Called whenever `position` has changed and the band with it.
        on_cells: Called with the cell-steps that were done since the last call.
        streams: Copies to and from the colony's device; None on the CPU.
    """

    def __init__(
        self,
        colony: Colony,
        band: Band,
        plan: Plan,
        position: Position,
        *,
        neighbours: Neighbours,
        save: Callable[[], None] = lambda: None,
        on_cells: Callable[[float], None] = lambda cells: None,
        streams: CopyStreams | None = None,
    ):
        self.colony, self.band, self.plan, self.position = colony, band, plan, position
        self.neighbours, self.first_row = neighbours, neighbours.rows[0] if neighbours.rows else 0
        self.save, self.on_cells, self.streams = save, on_cells, streams
        self.reach = colony.cost().reach
        self._buffers = None
        self._ahead: Strip | None = None  # of the pass that is under way, computed before its turn

    @torch.no_grad()
    def run(self, until: int) -> None:
        """Goes on until all rows have taken `until` steps."""
        position = self.position
        while position.step < until:
            if self.plan.whole:
                self._advance_whole(min(self.plan.steps_per_pass, until - position.step))
                continue
            if position.pass_steps == 0:
                self._begin(min(self.plan.steps_per_pass, until - position.step))
            self._compute([strip for strip in self._strips() if strip != self._ahead], self._done)
            self.band.turn()
            position.step += position.pass_steps
            position.pass_steps, position.row, position.base = 0, 0, self.band.base
            self._ahead = None
            self.save()

    def release(self) -> None:
        """Gives back the memory of the buffers."""
        self._buffers = None

    def _advance_whole(self, steps):
        """Advances a band that is the only strip where it lies, after the rows around it were put to it."""
        x, first, halo = self.band.memory[None], 0, self.reach * steps if self.plan.halo else 0
        if halo:
            above, below = self.neighbours.exchange(self.band, halo, lambda: None)
            x, first = torch.cat([above, self.band.memory, below], 1)[None], above.shape[1]
        if self._buffers is None or self._buffers.shape != x.shape:
            self._buffers = zeros(x.shape, device=x.device)
        x, self._buffers = self._advance(x, self._buffers, -first, steps, self.band.rows)
        self.band.memory = x[0, :, first : first + self.band.rows]
        self.position.step += steps
        self.save()

    def _begin(self, steps):
        position, halo = self.position, self.reach * steps if self.plan.halo else 0
        above = below = torch.empty(self.band.channels, 0, self.band.width)
        position.pass_steps = steps
        if halo:
            above, below = self.neighbours.exchange(self.band, halo, self._compute_ahead)
        self.band.write(-above.shape[1], above)
        self.band.write(self.band.rows, below)
        position.above, position.below = above.shape[1], below.shape[1]
        self.save()
        self.neighbours.barrier()

    def _strips(self):
        """Lists what is left of the pass."""
        position, halo = self.position, self.reach * self.position.pass_steps if self.plan.halo else 0
        strips = []
        for first in range(position.row, self.band.rows, self.plan.strip_rows):
            rows = min(self.plan.strip_rows, self.band.rows - first)
            begin = max(first - halo, -position.above)
            end = min(first + rows + halo, self.band.rows + position.below)
            strips.append(Strip(first, rows, begin, end - begin))
        return strips

    def _compute_ahead(self):
        """Takes the second strip through the pass, if that needs no halo of the band and leaves all old rows whole."""
        plan, halo = self.plan, self.reach * self.position.pass_steps
        strip = Strip(plan.strip_rows, plan.strip_rows, plan.strip_rows - halo, plan.strip_rows + 2 * halo)
        if plan.ahead and strip.begin >= 0 and strip.begin + strip.count <= self.band.rows:
            self._compute([strip], lambda strip: None)
            self._ahead = strip

    def _compute(self, strips, done):
        if self.streams is not None:
            run_pass(self.streams, strips, self.band, self._advance_staged, done)
            return
        for strip in strips:
            self._compute_here(strip)
            done(strip)

    def _compute_here(self, strip):
        band = self.band
        if self._buffers is None:
            most = band.channels * band.width * (self.plan.strip_rows + 2 * self.plan.halo)
            self._buffers = [zeros((most,)), zeros((most,))]
        shape = (1, band.channels, strip.count, band.width)
        x, spare = (buffer[: torch.Size(shape).numel()].view(shape) for buffer in self._buffers)
        band.read(strip.begin, strip.count, x[0])
        x, _ = self._advance(x, spare, strip.begin, self.position.pass_steps, strip.rows)
        band.write_next(strip.first, strip.inner(x[0]))

    def _advance(self, x, spare, begin, steps, rows):
        """Takes steps on the rows of the band from `begin` on, of which so many `rows` are new."""
        at_once = max(1, CELL_STEPS_PER_CALL // (x.shape[2] * x.shape[3]))
        for done in range(0, steps, at_once):
            count = min(at_once, steps - done)
            x, spare = self.colony.advance(x, spare, self.first_row + begin, self.position.step + done, count)
            self.on_cells(rows * self.band.width * count)
        return x, spare

    def _advance_staged(self, x, spare, strip):
        """Takes all steps of the pass on a strip that is on its device."""
        self.on_cells(strip.rows * self.band.width * self.position.pass_steps)
        row = self.first_row + strip.begin
        return self.colony.advance(x, spare, row, self.position.step, self.position.pass_steps)

    def _done(self, strip):
        self.position.row = strip.first + strip.rows
        self.save()
