"""A canvas on its way from its start to its last step, of any size: in memory, or in a file that is computed in strips.

    with Run(nca, 16384, 16384, 64, CanvasConfig(memory="4GiB"), path=Path("wall.png")) as run:
        run.go()
        write_picture(Path("wall.png"), 16384, 16384, run.pixels())

On a CPU the result is that of `nca(nca.initial_state(...), steps)`, bit for bit, however it is cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nca_fast.canvas.band import Band
from nca_fast.canvas.budget import disk_bytes, plans
from nca_fast.canvas.colony import Automata
from nca_fast.canvas.journal import Journal, fingerprint, journal_path
from nca_fast.canvas.memory import check_disk
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import CanvasConfig, Stage, stages
from nca_fast.canvas.start import blocks_of, find_start
from nca_fast.canvas.state_file import write_state
from nca_fast.canvas.streams import CudaLanes, Lanes
from nca_fast.canvas.strips import Alone, Neighbours, Passes, Position
from nca_fast.media.images import load_image, to_uint8
from nca_fast.nca import NCA

PIXELS = 2**20  # of the picture at a time


class Run:
    """A canvas, or a band of its rows, and the automata that it belongs to.

    Args:
        nca: The automaton; what is computed is computed on its device.
        height, width: Of the canvas, in cells.
        steps: That it shall take.
        config: See there.
        seed: Fixes the start state and all fire masks.
        backend, precision: As in `nca_fast.rollout`.
        image: For automata that start from a picture: [3, height, width] in [0, 1].
        path: The output; a state that does not fit into memory lies in a file beside it, and can be gone on with when
            the run was interrupted. None: a canvas that does not fit is refused.
        keep: Whether an interrupted run leaves such a state; otherwise it leaves nothing.
        resume: Go on with such a state.
        longest: Most steps between two moments at which the state is wanted; None: only the last is.
        held: Bytes of memory that somebody else needs all the time.
        held_after: Bytes that somebody else needs when the steps are done.
        disk: Bytes that the output needs on the disk.
        on_cells: Called with the cell-steps that were done since the last call.
        rows: First and end row of the band; None is all.
        neighbours: Where the rows around the band come from; needed with `rows`.
        plan: How the band is cut; None: as the memory asks. All bands of a canvas must have equal steps_per_pass.
        lanes: Copies between host and device; None: those of a GPU where the automaton is on one. See `staging`.

    Raises:
        ValueError: name, rule, value and remedy of what does not hold; the memory cannot suffice; a run to resume had
            other settings.
        FileExistsError: An interrupted run is there, and `resume` was not asked for.
        OSError: The disk cannot suffice, or a file cannot be read or written.
    """

    def __init__(
        self,
        nca: NCA,
        height: int,
        width: int,
        steps: int,
        config: CanvasConfig | None = None,
        *,
        seed: int = 0,
        backend: str | None = None,
        precision: str = "fp32",
        image: Tensor | None = None,
        path: Path | None = None,
        keep: bool = False,
        resume: bool = False,
        longest: int | None = None,
        held: int = 0,
        held_after: int = 0,
        disk: int = 0,
        on_cells: Callable[[float], None] = lambda cells: None,
        rows: tuple[int, int] | None = None,
        neighbours: Neighbours | None = None,
        plan: Plan | None = None,
        lanes: Lanes | None = None,
    ):
        for name, value in (("height", height), ("width", width), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        config = CanvasConfig() if config is None else config
        config.check()
        self.nca, self.height, self.width, self.steps, self.config = nca, height, width, steps, config
        self.seed, self.path, self.on_cells = seed, path, on_cells
        self.first_row, self._rows = (0, None) if rows is None else (rows[0], rows[1] - rows[0])
        self.dtype = getattr(torch, config.state_dtype)
        ncas = [nca, *(NCA.from_pretrained(model).to(_device(nca)) for model in config.graft)]
        region = None if config.map is None else load_image(config.map)
        speed = None if config.speed_map is None else load_image(config.speed_map)
        how = {"seed": seed, "backend": backend, "precision": precision, "map": region, "speed_map": speed}
        self.stages = stages(height, width, steps, config)
        if rows is not None and len(self.stages) > 1:
            raise ValueError("a canvas that grows cannot be cut into bands: leave grow_every out.")
        self._automata = [Automata(ncas, height, width, window=(s.height, s.width), **how) for s in self.stages]
        self.start = find_start(config, nca, image)
        self.start.check(nca, height, width, growing=len(self.stages) > 1)
        self.first_step = self.start.state.step if self.start.state is not None else 0
        self.neighbours = Alone(self._automata[0].circular) if neighbours is None else neighbours

        self.band: Band | None = None
        self.stage, self.position = 0, Position(step=self.first_step)
        # What a run must have in common with one that it goes on with: of files, what is in them.
        settings = asdict(replace(config, graft=(), map=None, speed_map=None))
        settings |= {"height": height, "width": width, "steps": steps, "rows": rows}
        settings |= {"seed": seed, "backend": backend, "precision": precision}
        settings |= {"rules": [n.rule.to_json() for n in ncas], "weights": [fingerprint(*n.parameters()) for n in ncas]}
        settings |= {"pictures": [None if p is None else fingerprint(p) for p in (region, speed, image)]}
        self.journal = None if path is None else Journal(journal_path(path), settings)
        self._keep, self._lanes = keep, lanes
        if resume:
            self._resume()
            return
        if self.resumable:
            raise FileExistsError(
                f"{path} must not have an interrupted run, but {self.journal.path} and the state beside it are there. "
                "Go on with --resume (resume=True), or remove them."
            )
        about = {"rows": self._rows, "held": held, "held_after": held_after, "file": path is not None}
        most = min(longest or steps, steps)
        self.plans = plans(self._automata, config, most, **about) if plan is None else [plan]
        if path is not None:
            needed = disk + disk_bytes(self._automata, config, self.plans, self._rows)
            check_disk(path.parent, needed, "the state and the output")

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Removes the files, but those of a run that was interrupted, or whose output could not be written."""
        if self.band is None:
            return
        if kind is not None and not issubclass(kind, ValueError) and self._keep and self.resumable:
            self.band.close()
            return
        self.band.remove()
        if self.journal is not None:
            self.journal.remove()

    @property
    def resumable(self) -> bool:
        """Whether there is a journal of this run, or of one before it."""
        return self.journal is not None and self.journal.path.exists()

    @property
    def done(self) -> int:
        """Steps that all cells have taken."""
        return self.position.step - self.first_step

    def cell_steps(self) -> tuple[int, int]:
        """How many cell-steps the whole run has, and how many of them are done."""
        total, begin, done = 0, 0, 0
        for number, stage in enumerate(self.stages):
            cells = (self._rows or stage.height) * stage.width
            if number == self.stage:
                done = total + cells * (self.done - begin) + stage.width * self.position.row * self.position.pass_steps
            total, begin = total + cells * (stage.until - begin), stage.until
        return total, done

    def go(self, until: int | None = None) -> None:
        """Computes until so many steps are done; None: all."""
        until = self.steps if until is None else until
        while True:
            if self.band is None:
                self._begin()
            self._passes.run(self.first_step + min(until, self.stages[self.stage].until))
            if self.stage + 1 == len(self.stages) or until <= self.stages[self.stage].until:
                return
            self._grow()

    def release(self) -> None:
        """Gives back the memory of the strips, for what is done with the result."""
        self._passes.release()

    def rows(self, first: int, count: int) -> Tensor:
        """Rows of the state as they are now, counted from the first of the canvas or band. float32 [C, count, width]"""
        return self.band.read(first, count)

    def blocks(self) -> Iterator[Tensor]:
        """All rows from top to bottom, some at a time. float32 [C, rows, width]"""
        for row, count in blocks_of(self.band):
            yield self.rows(row, count)

    def state(self) -> Tensor:
        """The whole state; `go` may overwrite it. [1, C, height, width], on the device of the automaton"""
        if self.plans[self.stage].whole:
            return self.band.memory[None]
        return self.rows(0, self.band.rows)[None].to(_device(self.nca))

    def save_state(self, path: Path) -> None:
        """Writes the state as a file that a canvas can start from.

        Raises:
            OSError: It cannot be written.
        """
        size = (self.band.channels, self.band.rows, self.band.width)
        write_state(path, *size, self.blocks(), {"step": self.position.step, "seed": self.seed})

    def pixels(self, zoom: int = 1) -> Iterator[np.ndarray]:
        """What the state looks like, from top to bottom: row blocks uint8 [rows * zoom, width * zoom, 3].

        Raises:
            ValueError: As `NCA.to_rgb` and `images.to_uint8`.
        """
        for row, count in blocks_of(self.band, max(1, PIXELS // (self.band.width * zoom * zoom))):
            pixels = to_uint8(self.nca.to_rgb(self.rows(row, count)[None])[0])
            yield pixels if zoom == 1 else pixels.repeat(zoom, 0).repeat(zoom, 1)

    def _open(self, number: int, base: int | None = None) -> Band:
        """The band of a stage: new, or with `base` its file of a run that was interrupted."""
        stage, plan = self.stages[number], self.plans[number]
        path = None if plan.in_memory else self._state_path(number)
        return Band(
            self.nca.rule.channels,
            self._rows or stage.height,
            stage.width,
            halo=0 if plan.whole else plan.halo,
            shift=plan.shift,
            dtype=self.dtype,
            path=path,
            base=base,
            device=_device(self.nca) if plan.whole else None,
        )

    def _begin(self):
        self.band = self._open(0)
        self._write_start(self.band, self.stages[0])
        self._continue()
        self._save()

    def _write_start(self, band: Band, stage: Stage):
        start = self.start.within(self.height, self.width, stage.height, stage.width)
        start.write(band, self.nca, stage.height, stage.width, first_row=self.first_row, seed=self.seed)

    def _continue(self):
        """Makes ready to compute the band from its position on."""
        plan = self.plans[self.stage]
        if self._lanes is None and _device(self.nca).type == "cuda":
            self._lanes = CudaLanes(_device(self.nca))
        self._passes = Passes(
            self._automata[self.stage],
            self.band,
            plan,
            self.position,
            first_row=self.first_row,
            neighbours=self.neighbours,
            save=self._save,
            on_cells=self.on_cells,
            lanes=self._lanes,
        )

    def _save(self):
        if self.band.path is not None and self._keep:
            self.journal.save(self.stage, self.plans, self.position)

    def _grow(self):
        """Puts the canvas into the middle of a larger one."""
        self._passes.release()
        old, band, by = self.band, self._open(self.stage + 1), self.config.grow_by
        try:
            self._write_start(band, self.stages[self.stage + 1])
            for row, count in blocks_of(old):
                rows = band.read(by + row, count)
                rows[:, :, by : by + old.width] = old.read(row, count)
                band.write(by + row, rows)
        except BaseException:
            band.remove()
            raise
        self.stage, self.band, self.position = self.stage + 1, band, Position(step=self.position.step)
        self._continue()
        if old.path is not None and band.path is None:
            self.journal.remove()
        self._save()
        old.remove()

    def _resume(self):
        """Opens what an interrupted run left."""
        if self.journal is None:
            raise ValueError("resume must be False for a run without a path, which leaves nothing behind.")
        self.stage, self.plans, self.position = self.journal.load()
        self.band = self._open(self.stage, self.position.base)
        for number in range(self.stage):  # of a process that was killed while the canvas grew
            self._state_path(number).unlink(missing_ok=True)
        self._continue()

    def _state_path(self, number):
        return self.path.with_name(f"{self.path.name}.state{number or ''}")


def _device(nca):
    return next(nca.parameters()).device
