"""A canvas on its way from its start to its last step, of any size: in memory, or in a file that is computed in strips.

    scene = Scene(nca, 16384, 16384, steps=64, config=CanvasConfig(memory="4GiB"))
    with Canvas(scene, path=Path("wall.png")) as canvas:
        canvas.go()
        write_picture(Path("wall.png"), 16384, 16384, canvas.pixels())

On a CPU the result is that of `nca(nca.initial_state(..., seed=seed), steps, seed=seed)`, bit for bit, however it is
cut.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nca_fast.canvas.band import Band, Position
from nca_fast.canvas.colony import Colony
from nca_fast.canvas.exchange import Alone, Neighbours
from nca_fast.canvas.journal import Extent, Journal, fingerprint, journal_path
from nca_fast.canvas.memory import check_disk
from nca_fast.canvas.plan import Plan, Reserve, disk_bytes, plan_stages
from nca_fast.canvas.scene import Scene, Stage
from nca_fast.canvas.start import find_paint, find_start, painted_colony, put_codes
from nca_fast.canvas.state_file import write_state
from nca_fast.canvas.streams import CopyStreams
from nca_fast.canvas.strips import Passes
from nca_fast.hexagons import grid_of, on_grid
from nca_fast.media.images import load_image, to_uint8
from nca_fast.nca import NCA

PIXELS = 2**20  # of the picture at a time
MAPS = ("map", "speed_map", "angle_map", "scale_map")


class Canvas:
    """A scene, or a band of its rows, that is being computed.

    Args:
        scene: What is computed; what computes it is the device of its automaton.
        path: The output; a state that does not fit into memory lies in a file beside it. None: a canvas that does not
            fit is refused.
        resume: True resumes a run that was interrupted; False begins one that can be resumed, if its state lies in a
            file. None: an interrupted run leaves nothing.
        longest: Most steps between two moments at which the state is wanted; None: only the last is.
        reserve: Memory and disk for something else.
        on_cells: Called with the cell-steps that were done since the last call.
        neighbours: What is around the band; None: nothing, the band is all of the canvas.
        plan: How the band is cut; None: as the memory asks. All bands of a canvas must have equal steps_per_pass.
        streams: Copies between host and device; None: those of a GPU where the automaton is on one.

    Raises:
        ValueError: name, rule, value and remedy of what does not hold; the memory cannot suffice; a run to resume had
            other settings.
        FileExistsError: An interrupted run is there, and `resume` was not asked for.
        OSError: The disk cannot suffice, or a file cannot be read or written.
    """

    def __init__(
        self,
        scene: Scene,
        *,
        path: Path | None = None,
        resume: bool | None = None,
        longest: int | None = None,
        reserve: Reserve = Reserve(),  # noqa: B008 (frozen)
        on_cells: Callable[[float], None] = lambda cells: None,
        neighbours: Neighbours | None = None,
        plan: Plan | None = None,
        streams: CopyStreams | None = None,
    ):
        self.scene, self.path, self.on_cells = scene, path, on_cells
        config, nca = scene.config, scene.nca
        self.neighbours = Alone(nca.rule.padding == "circular") if neighbours is None else neighbours
        rows = self.neighbours.rows
        self.first_row, self._rows = (0, None) if rows is None else (rows[0], rows[1] - rows[0])
        self.stages = scene.stages()
        if rows is not None and len(self.stages) > 1:
            raise ValueError("a canvas that grows cannot be cut into bands: leave grow_every out.")
        grafts = [NCA.from_pretrained(model).to(scene.nca.device) for model in config.graft]
        grafts = [on_grid(graft, grid_of(scene.nca.rule)) for graft in grafts]
        grafts = grafts if scene.events is None else scene.events.ncas[1:]
        maps = {name: getattr(config, name) for name in MAPS}
        maps = {name: None if picture is None else load_image(picture) for name, picture in maps.items()}
        maps = maps if scene.speed is None else maps | {"speed_map": scene.speed}
        lives = maps | ({"map": painted_colony(scene)} if config.graft and config.paint is not None else {})
        self._colonies = [Colony(scene, grafts, window=(s.height, s.width), **lives) for s in self.stages]
        self.start, self.paint = find_start(scene), find_paint(scene)
        self.first_step = self.start.state.step if self.start.state is not None else 0

        self.band: Band | None = None
        self.stage, self.position = 0, Position(step=self.first_step)
        self.journal = None if path is None else Journal(journal_path(path), self._settings(maps.values()))
        self._keep, self._streams = resume is not None, streams
        if resume:
            self._resume()
            return
        if self.resumable:
            raise FileExistsError(
                f"{path} must not have an interrupted run, but {self.journal.path} and the state beside it are there. "
                "Go on with --resume (resume=True), or remove them."
            )
        if plan is None:
            options = {"rows": self._rows, "file": path is not None, "reserve": reserve}
            plans = plan_stages(scene, self._colonies, min(longest or scene.steps, scene.steps), **options)
        else:
            plans = [plan]
        self.plans = self.neighbours.agree(plans)
        if path is not None:
            needed = self.neighbours.total(disk_bytes(self._colonies, self.plans, self._rows)) + reserve.disk
            check_disk(path.parent, needed, "the state and the output")

    def __enter__(self) -> "Canvas":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Removes the files, but those of a run that was interrupted, or whose output could not be written."""
        if self.band is None:
            return
        if kind is not None and not issubclass(kind, ValueError) and self._keep and self.resumable:
            self.band.close()
            return
        if self.journal is not None:  # first: a journal without its state cannot be gone on with
            self.journal.remove()
        self.band.remove()

    @property
    def resumable(self) -> bool:
        """Sees whether there is a journal of this run, or of one before it."""
        return self.journal is not None and self.journal.path.exists()

    @property
    def done(self) -> int:
        """Counts the steps that all cells have taken."""
        return self.position.step - self.first_step

    def cell_steps(self) -> tuple[int, int]:
        """Counts the cell-steps of the whole run, and those of them that are done."""
        total, begin, done = 0, 0, 0
        for number, stage in enumerate(self.stages):
            cells = (self._rows or stage.height) * stage.width
            if number == self.stage:
                done = total + cells * (self.done - begin) + stage.width * self.position.row * self.position.pass_steps
            total, begin = total + cells * (stage.until - begin), stage.until
        return total, done

    def go(self, until: int | None = None) -> None:
        """Computes until so many steps are done; None: all."""
        until = self.scene.steps if until is None else until
        while True:
            if self.band is None:
                self._begin()
            self._passes.run(self.first_step + min(until, self.stages[self.stage].until))
            if self.stage + 1 == len(self.stages) or until <= self.stages[self.stage].until:
                return
            self._grow()

    def turn_textures(self) -> None:
        """Brings the codes of all cells to where the film of a `Paint` that moves is, after the steps that are done."""
        if self.paint is not None and self.paint.moves:
            stage, at = self.stages[self.stage], self.paint.at(self.done / self.scene.steps)
            put_codes(self.band, self.paint, stage.height, stage.width, self.first_row, at)

    def release(self) -> None:
        """Gives back the memory of the strips, for what is done with the result."""
        self._passes.release()

    def rows(self, first: int, count: int) -> Tensor:
        """Reads rows of the state as it is now, from row `first` of the canvas or band on. float32 [C, count, width]"""
        return self.band.read(first, count)

    def blocks(self) -> Iterator[Tensor]:
        """Reads all rows from top to bottom, some at a time. float32 [C, rows, width]"""
        for row, count in self.band.blocks():
            yield self.rows(row, count)

    def state(self) -> Tensor:
        """Gives the whole state; `go` may overwrite it. [1, C, height, width], on the device of the automaton"""
        if self.plans[self.stage].whole:
            return self.band.memory[None]
        return self.rows(0, self.band.rows)[None].to(self.scene.nca.device)

    def save_state(self, path: Path) -> None:
        """Writes the state of the whole canvas as a file that a canvas can start from.

        Raises:
            OSError: It cannot be written.
        """
        size = (self.band.channels, self.stages[self.stage].height, self.band.width)
        metadata = {"step": self.position.step, "seed": self.scene.seed}
        self.neighbours.together(lambda blocks: write_state(path, *size, blocks, metadata), self.blocks())

    def pixels(self, zoom: int = 1) -> Iterator[np.ndarray]:
        """Shows the state from top to bottom: row blocks uint8 [rows * zoom, width * zoom, 3].

        Raises:
            ValueError: As `NCA.to_rgb` and `images.to_uint8`.
        """
        for row, count in self.band.blocks(max(1, PIXELS // (self.band.width * zoom * zoom))):
            pixels = to_uint8(self.scene.nca.to_rgb(self.rows(row, count)[None])[0])
            yield pixels if zoom == 1 else pixels.repeat(zoom, 0).repeat(zoom, 1)

    def _settings(self, maps: Iterable[Tensor | None]) -> dict[str, Any]:
        """Lists what a run must have in common with one that it resumes: of files, what is in them."""
        scene, ncas = self.scene, self._colonies[0].ncas
        same = asdict(replace(scene.config, graft=(), paint=None, **dict.fromkeys(MAPS))) | {
            "rows": self.neighbours.rows,
            "paint": None if scene.config.paint is None else fingerprint(load_image(scene.config.paint)),
        }
        del same["texture_to"]  # of films, which leave nothing
        same |= {name: getattr(scene, name) for name in ("height", "width", "steps", "seed", "backend", "precision")}
        same |= {"rules": [nca.rule.to_json() for nca in ncas]}
        same |= {"weights": [fingerprint(*nca.parameters()) for nca in ncas]}
        same["replay"] = None if scene.events is None else scene.events.replay.mark()
        pictures = [*maps, scene.image]
        return same | {"pictures": [None if picture is None else fingerprint(picture) for picture in pictures]}

    def _open(self, number: int, base: int | None = None) -> Band:
        """Opens the band of a stage: new, or with `base` its file of a run that was interrupted."""
        stage, plan = self.stages[number], self.plans[number]
        path = None if plan.in_memory else self._state_path(number)
        return Band(
            self._colonies[number].channels,
            self._rows or stage.height,
            stage.width,
            halo=0 if plan.whole else plan.halo,
            shift=plan.shift,
            dtype=self.scene.dtype,
            path=path,
            base=base,
            device=self.scene.nca.device if plan.whole else None,
        )

    def _begin(self):
        self.band = self._open(0)
        self._write_start(self.band, self.stages[0])
        self._continue()
        self._save()

    def _write_start(self, band: Band, stage: Stage):
        self.start.write(band, self.scene, stage.height, stage.width, first_row=self.first_row, paint=self.paint)

    def _continue(self):
        """Makes ready to compute the band from its position on."""
        if self._streams is None and self.scene.nca.device.type == "cuda":
            self._streams = CopyStreams(self.scene.nca.device)
        self._passes = Passes(
            self._colonies[self.stage],
            self.band,
            self.plans[self.stage],
            self.position,
            neighbours=self.neighbours,
            save=self._save,
            on_cells=self.on_cells,
            streams=self._streams,
        )

    def _save(self):
        if self.band.path is not None and self._keep:
            self.journal.save(self.stage, self.plans, self.position)

    def _grow(self):
        """Puts the canvas into the middle of a larger one."""
        self._passes.release()
        old, band, by = self.band, self._open(self.stage + 1), self.scene.config.grow_by
        try:
            self._write_start(band, self.stages[self.stage + 1])
            for row, count in old.blocks():
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
        self.stage, self.plans, self.position = self.journal.load(self._extents())
        self.neighbours.align(self.position, self.path)
        try:
            self.band = self._open(self.stage, self.position.base)
        except EOFError as error:
            raise ValueError(
                f"{self._state_path(self.stage)} must be the state of the interrupted run, but {error} Remove "
                f"{self.journal.path} and begin anew, without --resume."
            ) from error
        for number in range(self.stage):  # of a process that was killed while the canvas grew
            self._state_path(number).unlink(missing_ok=True)
        self._continue()

    def _extents(self):
        """Lists what bounds the numbers of a journal."""
        extents, begin = [], 0
        for colony, stage in zip(self._colonies, self.stages, strict=True):
            steps = self.first_step + begin, self.first_step + stage.until
            rows = self._rows or stage.height
            extents.append(Extent(rows, colony.cost().reach, *steps, alone=self._rows is None))
            begin = stage.until
        return extents

    def _state_path(self, number):
        return self.path.with_name(f"{self.path.name}.state{number or ''}")
