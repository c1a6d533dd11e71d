"""The command that lets an automaton grow on a canvas of any size."""

import re
import shlex
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from nca_fast.canvas.replay import Replay, read_replay
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.choices import GridName
from nca_fast.commands import streams
from nca_fast.commands.again import again
from nca_fast.commands.numbers import check_positive
from nca_fast.commands.replayed import check_config, replayed_models
from nca_fast.compute import ComputeConfig
from nca_fast.media.endings import FILMS, PICTURES
from nca_fast.pretrained import check_model, model_file

Positional = tyro.conf.Positional
TILE = 256  # cells
SQUARE = ("map", "speed_map", "paint", "angle", "align", "angle_map", "scale", "scale_map", "dt")  # not for hexagons


if TYPE_CHECKING:
    from nca_fast.nca import NCA


@dataclass(frozen=True)
class Render:
    """Let a trained automaton grow on a canvas of any size: a picture of the end, or a film of all of it.

    For example, after `nca-fast texture skimage:brick --out runs/brick`:
        nca-fast render runs/brick --out brick.png
        nca-fast render runs/brick --height 1080 --width 1920 --out wallpaper.png
        nca-fast render runs/brick --size tile --out tile.png
        nca-fast render runs/brick --height 256 --width 256 --steps 1890 --zoom 2 --out brick.mp4
        nca-fast render runs/brick --size 256 --zoom 4 --smooth --out large.png

    Larger than memory, as a picture that a browser opens; --resume goes on after Ctrl-C or a crash:
        nca-fast render runs/brick --height 65536 --width 65536 --steps 100 --memory 4GiB --out wall.dzi

    On two processes, each with a band of the canvas and a GPU of its own, if there are two:
        torchrun --nproc-per-node 2 -m nca_fast render runs/brick --height 8192 --width 8192 --steps 99 --out wall.png

    One of two textures that an automaton knows, after `nca-fast texture skimage:brick skimage:grass --out runs/two`; a
    blend; what a map of colours says, with borders 24 cells wide; a film in which one turns into the other:
        nca-fast render runs/two --texture grass --height 512 --width 512 --steps 300 --out grass.png
        nca-fast render runs/two --texture grass:1,brick:2 --height 512 --width 512 --steps 300 --out both.png
        nca-fast render runs/two --paint map.png --soft 24 --height 512 --width 512 --steps 300 --out painted.png
        nca-fast render runs/two --texture grass --texture-to brick --height 99 --width 99 --steps 900 --out turn.mp4

    In rings around the middle; turned by 30 degrees; twice as large, which takes four times as many steps:
        nca-fast render zoo:zebra --align polar --height 512 --width 512 --steps 300 --out rings.png
        nca-fast render zoo:weave --angle 30 --height 512 --width 512 --steps 300 --out turned.png
        nca-fast render zoo:weave --scale 2 --height 512 --width 512 --steps 1200 --out large.png

    On hexagons, without being trained anew; each is drawn as one:
        nca-fast render zoo:scales --grid hex --zoom 8 --size 100 --steps 300 --out hexagons.png

    Gravel where a mask is white, with a soft border where it is grey; or by the names of colours:
        nca-fast render runs/brick --graft runs/gravel --map mask.png --height 512 --width 512 --steps 99 --out path.png
        nca-fast render runs/brick --graft runs/gravel --paint map.png --legend red=brick,blue=gravel --height 512 ...

    What was done on a page (nca-fast web), from its saved replay: once more, on a larger canvas, as a film:
        nca-fast render --replay bricks-replay.json --out page.png
        nca-fast render runs/brick --replay brick-replay.json --height 16384 --width 16384 --memory 4GiB --out wall.dzi
        nca-fast render --replay bricks-replay.json --out page.mp4
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture of the last step (.png, .tif, .dzi, a pyramid that browsers open, of any size; .jpg, .webp, held in
    memory), or film (.mp4; .gif, which is several times as large and has 256 colours a frame). An existing file is
    replaced."""
    model: Annotated[Positional[Path | None], tyro.conf.arg(metavar="MODEL")] = None
    """model.safetensors of a training, its folder, zoo:NAME or hf:USER/NAME. It may be left out with --replay, where it
    is one of the zoo."""
    replay: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Replay (.json) that a page has saved: the same strokes before the same steps, with the same fire masks. It says
    models, canvas, seed and steps; more --steps go on. On a canvas of another --height and --width places, radii and
    soft borders of the strokes grow with it, while what grows there keeps its size. Models that are not in the zoo are
    given as MODEL and with --graft, in any order; a picture that is redrawn with --start."""
    steps: int | None = None
    """Updates of every cell. A texture is there after about 100. None: as many as the training took for its picture."""
    size: Annotated[str | None, tyro.conf.arg(metavar="SIDE|HEIGHTxWIDTH|tile")] = None
    """Rows and columns of the canvas in place of --height and --width: one number for both, two such as 1080x1920, or
    tile: 256 x 256, as programs for 3-D scenes like it, and on hexagons 256 x 128, which is what repeats there. Any
    canvas of squares repeats without a seam."""
    height: int | None = None
    """Rows of the canvas, in cells. None: those of the file in --start; without one as many as columns, or four times
    those of the training, and what grows out of one cell has the canvas of its training."""
    width: int | None = None
    """Columns of the canvas, in cells. None: as height."""
    steps_per_frame: int | None = None
    """Film: steps between two frames. None: 1 in the first second, then 2, 4, and 8."""
    fps: int = 30
    """Film: frames per second."""
    zoom: int | None = None
    """Pixels along the side of a cell, which is a plain square without --smooth (--scale lets larger things grow
    instead), or from one hexagon to the next. None: 1, or 4 for what grows out of one cell, where no size is given."""
    smooth: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With a --zoom above 1: colours go over into each other from cell to cell, in pictures, films and maps, in place
    of plain squares."""
    grid: GridName | None = None
    """Where the automaton lives: on squares, or on hexagons, which need a --zoom of some 6 to be seen. One that was
    trained on squares lives on hexagons without being trained anew, and the other way round. None: as it was trained
    (nca-fast texture --grid hex)."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    save_state: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File (.safetensors) for the last state too, from which --start goes on."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the same command that was interrupted, whose state lies beside the output."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)
    config: Annotated[CanvasConfig, tyro.conf.arg(name="")] = field(default_factory=CanvasConfig)

    main: ClassVar[tuple[str, ...]] = (
        *("out", "size", "height", "width", "steps", "zoom", "seed"),
        *("texture", "paint", "start", "memory", "resume"),
    )

    def check(self) -> None:
        """Raises ValueError for what cannot be rendered."""
        check_positive(self, "height", "width", "steps", "steps_per_frame", "fps", "zoom")
        if self.size is not None:
            if self.height is not None or self.width is not None:
                raise ValueError(f"height and width must be left out where size says them, which is {self.size!r}.")
            if self.size != "tile" and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", self.size):
                raise ValueError(f"size must be a number of cells, HEIGHTxWIDTH, or tile, but got {self.size!r}.")
        suffix = self.out.suffix.lower()
        if suffix not in (*PICTURES, *FILMS):
            raise ValueError(f"out must end in one of {', '.join((*PICTURES, *FILMS))}, but got {str(self.out)!r}.")
        if suffix in PICTURES and (self.steps_per_frame, self.fps) != (None, type(self).fps):
            raise ValueError(f"steps_per_frame and fps must go with a film (.mp4, .gif), but out is {str(self.out)!r}.")
        if suffix in FILMS and (self.resume or self.config.resumable):
            raise ValueError(f"resume and resumable must go with a picture, but out is the film {str(self.out)!r}.")
        if suffix in PICTURES and self.config.texture_to:
            raise ValueError(f"texture_to must go with a film (.mp4, .gif), but out is {str(self.out)!r}.")
        if self.save_state is not None and self.save_state.suffix.lower() != ".safetensors":
            raise ValueError(f"save_state must end in .safetensors, but got {str(self.save_state)!r}.")
        if self.model is None and self.replay is None:
            raise ValueError("model must be given, unless there is a replay: nca-fast render MODEL --out FILE.")
        for model in self._given:
            check_model(model)
        if self.replay is not None:
            check_config(self.config)
            given = [name for name in ("grid", "seed") if getattr(self, name) != getattr(type(self), name)]
            if given:
                raise ValueError(f"{' and '.join(given)} must be left out with a replay, which has its own.")
            _ = self._replayed

    def run(self, command: str) -> None:
        """Renders, and says what was written."""
        from nca_fast import processes
        from nca_fast.canvas.events import Events
        from nca_fast.canvas.exchange import band_path
        from nca_fast.canvas.scene import Scene
        from nca_fast.canvas.start import find_paint, simplified
        from nca_fast.commands.ending import finish
        from nca_fast.commands.models import open_model
        from nca_fast.commands.report import resume_rendering
        from nca_fast.files import check_writable
        from nca_fast.hexagons import draws_hexagons
        from nca_fast.nca import NCA
        from nca_fast.rendering.film import film
        from nca_fast.rendering.picture import picture
        from nca_fast.textures import model_name

        if self.out.suffix.lower() in FILMS and processes.count() > 1:
            raise ValueError(f"a film must be made by one process, but torchrun started {processes.count()}.")
        replay = self._replayed
        first, *others = self._given if replay is None else replayed_models(replay, self._given)
        nca, how = open_model(NCA, first, self.compute, *others), self.compute.how
        if nca.start == "image" and self.config.start is None:
            apply = f"nca-fast apply {shlex.quote(str(first))} PICTURE --out {shlex.quote(str(self.out))}"
            apply = "" if replay else f"{apply}, or "
            raise ValueError(f"{first} must get a picture, which it redraws: {apply}--start PICTURE.")
        nca = self._moved(nca)
        height, width, steps, zoom = self._size(first, replay, draws_hexagons(nca))
        same = {"seed": self.seed, "config": self.config, "name": model_name(first)}
        if replay is not None:
            ncas = [nca, *(NCA.from_pretrained(other).to(nca.device) for other in others)]
            events = Events(replay, ncas, height, width)
            nca, config = events.ncas[0], replace(self.config, graft=())
            same |= {"seed": replay.seed, "config": config, "events": events}
        scene = Scene(nca, height, width, steps, **same, **how)
        for file in (self.out, self.save_state):
            if file is not None:
                check_writable(file.parent)
        scene = replace(scene, paint=find_paint(scene))
        if scene.paint is not None and scene.paint.said:
            print(scene.paint.said, flush=True)
        scene = scene if self.save_state else simplified(scene)
        same = {"zoom": zoom, "smooth": self.smooth, "save_state": self.save_state}
        same |= {"progress": streams.shows_progress()}
        if self.out.suffix.lower() in FILMS:
            files = film(scene, self.out, steps_per_frame=self.steps_per_frame, fps=self.fps, **same)
        else:
            kept = self.out
            if processes.count() > 1:
                torchrun = f"torchrun --nproc-per-node {processes.local_count()} -m nca_fast"
                command, kept = command.replace("nca-fast", torchrun, 1), band_path(self.out)
            with resume_rendering(command, kept):
                files = picture(scene, self.out, resume=self.resume, shared=True, **same)
        finish(files, then=self._next(command, height, width, zoom))

    @cached_property
    def _replayed(self) -> Replay | None:
        """The replay that is done again, read once."""
        return None if self.replay is None else read_replay(self.replay)

    @property
    def _given(self) -> list[Path]:
        """Models that the command line names."""
        return [*([] if self.model is None else [self.model]), *self.config.graft]

    def _next(self, command: str, height: int, width: int, zoom: int) -> list[str]:
        """Proposes a larger canvas with other cells, and a film; after a film a page."""
        from nca_fast import processes
        from nca_fast.commands.ending import page

        once = dict.fromkeys(("resume", "resumable", "save_state"))
        larger: dict[str, object] = once | dict.fromkeys(("texture_to", "steps_per_frame", "fps"))
        if self.replay is None:
            larger["seed"] = self.seed + 1
        if self.config.start_file is None:  # which is as large as it is
            rows = height if self.replay is None else 2 * height
            larger |= {"size": None, "height": rows, "width": 2 * width}
            larger |= {"zoom": zoom} if zoom != 1 else {}
        then = [again(command, type(self), **larger, out="large.png")]
        if self.out.suffix.lower() in FILMS or processes.count() > 1:
            return [*then, *([page(*map(str, self._given))] if self._given else [])]
        return [*then, again(command, type(self), **once, out="film.mp4")]

    def _moved(self, nca: "NCA") -> "NCA":
        """Puts the automaton onto the grid that was asked for."""
        from nca_fast.hexagons import draws_hexagons, on_grid

        nca, config = on_grid(nca, self.grid), self.config
        given = [name for name in SQUARE if getattr(config, name) is not None]
        if config.start_file is not None and config.start_file.suffix != ".safetensors":
            given.append("start")
        if draws_hexagons(nca) and given:
            raise ValueError(f"{', '.join(given)} must be left out on hexagons, which are not turned or painted yet.")
        return nca

    def _size(self, model: Path, replay: Replay | None, hexagons: bool) -> tuple[int, int, int, int]:
        """Height, width, steps and zoom: what was asked for, or else those of a replay, or what suits the model."""
        from nca_fast import checkpoint
        from nca_fast.canvas.start import file_size
        from nca_fast.rendering.size import sensible_size

        suits = sensible_size(checkpoint.load_metadata(model_file(model)).get("provenance", {}))
        height, width, zoom = self.height, self.width, suits.zoom
        if self.size == "tile":
            height, width = TILE, TILE // 2 if hexagons else TILE
        elif self.size is not None:
            first, _, second = self.size.partition("x")
            height, width = int(first), int(second or first)
        if replay is not None:
            height, width = height or width or replay.height, width or height or replay.width
            return height, width, self.steps or max(replay.steps, 1), self.zoom or zoom
        if self.config.start_file is not None and None in (height, width):
            of_file = file_size(self.config.start_file)
            height, width, zoom = height or of_file[0], width or of_file[1], 1
        elif (height, width) != (None, None):
            height, width, zoom = height or width, width or height, 1
        return height or suits.side, width or suits.side, self.steps or suits.steps, self.zoom or zoom
