"""Commands that draw what an automaton has learned."""

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from nca_fast.canvas.settings import CanvasConfig, MemoryOption
from nca_fast.choices import GridName
from nca_fast.commands import streams
from nca_fast.commands.models import model_shares
from nca_fast.compute import ComputeConfig
from nca_fast.media.endings import FILMS, PICTURES
from nca_fast.media.sources import check_picture_source
from nca_fast.pretrained import check_model, model_file

Positional = tyro.conf.Positional
TILE = 256  # cells
SQUARE = ("map", "speed_map", "paint", "angle", "align", "angle_map", "scale", "scale_map", "dt")  # not for hexagons


if TYPE_CHECKING:
    from nca_fast.nca import NCA


@dataclass(frozen=True)
class Apply:
    """Let a trained automaton redraw a picture, or all pictures of a folder, at any size.

    For example, after `nca-fast style skimage:immunohistochemistry --content photos --out runs/tissue`:
        nca-fast apply runs/tissue photo.jpg --out photo-tissue.png
        nca-fast apply runs/tissue photo.jpg --max-size 480 --steps 96 --out photo-tissue.mp4
        nca-fast apply runs/tissue photos --out photos-tissue

    Half as strong; in the colours of the photograph; a third tissue and two thirds of another style:
        nca-fast apply runs/tissue photo.jpg --strength 0.5 --out photo-tissue.png
        nca-fast apply runs/tissue photo.jpg --preserve-color --out photo-tissue.png
        nca-fast apply runs/tissue:1,runs/brush:2 photo.jpg --out photo-both.png
    """

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL[:SHARE,MODEL:SHARE ...]")]
    """model.safetensors of a training, or its folder. Several that were trained with one preset, each with a share,
    redraw together: every step changes the colours by the weighted mean of what each would do. Only the ratios of the
    shares count."""
    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE_OR_FOLDER")]
    """Picture to redraw, skimage:NAME, or a folder of pictures."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE_OR_FOLDER")]
    """Picture (.png .tif .dzi .jpg .webp) or film of the process (.mp4 .gif); for a folder, the folder for its pictures
    (.png).
    Existing files are replaced."""
    steps: int | None = None
    """Updates of every cell. None: as many as the training took for its own pictures (picture_steps). Several times as
    many may end in wild colors."""
    strength: float = 1.0
    """How much of the redrawn picture shows, as with the opacity of a layer: 0 is the picture as it was, 1 what the
    automaton made of it, and every pixel goes straight from the one to the other."""
    preserve_color: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take brightness from the redrawn picture, and hue and saturation from the picture as it was."""
    max_size: int | None = None
    """Longer side in pixels, to which larger pictures are shrunk. None: as large as they are."""
    steps_per_frame: int = 1
    """Film: steps between two frames."""
    fps: int = 30
    """Film: frames per second."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    memory: MemoryOption = None
    """Memory that the canvas may take, such as 2GiB; what needs more is computed strip by strip. None: what is free."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    main: ClassVar[tuple[str, ...]] = ("out", "strength", "preserve_color", "steps", "max_size", "seed")

    def check(self) -> None:
        """Raises ValueError for what cannot be done."""
        _check_positive(self, "steps", "max_size", "steps_per_frame", "fps")
        CanvasConfig(memory=self.memory).check()
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, but got {self.seed}.")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be from 0 to 1, but got {self.strength}.")
        suffix = self.out.suffix.lower()
        if not Path(self.image).is_dir() and suffix not in (*PICTURES, *FILMS):
            raise ValueError(f"out must end in one of {', '.join((*PICTURES, *FILMS))}, but got {str(self.out)!r}.")
        if suffix not in FILMS and (self.steps_per_frame, self.fps) != (type(self).steps_per_frame, type(self).fps):
            raise ValueError(f"steps_per_frame and fps must go with a film (.mp4, .gif), but out is {str(self.out)!r}.")
        check_picture_source(self.image, folders=True)
        for model in model_shares(self.model):
            check_model(model)

    def run(self, command: str) -> None:
        """Redraws, and says what was written and what could not be read."""
        from nca_fast.commands.models import open_model
        from nca_fast.commands.report import finish
        from nca_fast.nca import NCA
        from nca_fast.rendering.apply import apply, steps_of
        from nca_fast.rendering.blend import blended

        shares = model_shares(self.model)
        first, *others = map(Path, shares)
        nca = open_model(NCA, first, self.compute, *others)
        nca = blended([nca, *(NCA.from_pretrained(other).to(nca.device) for other in others)], list(shares.values()))
        steps = max(map(steps_of, shares)) if self.steps is None else self.steps
        shown = ("strength", "preserve_color", "max_size", "seed", "steps_per_frame", "fps", "memory")
        how = self.compute.how | {name: getattr(self, name) for name in shown}
        written, unread = apply(nca, self.image, self.out, steps, progress=streams.shows_progress(), **how)
        again = f"nca-fast apply {shlex.quote(self.model)} {shlex.quote(self.image)}"
        then = [f"{again} --strength 0.5 --out weaker.png", f"{again} --steps {2 * steps} --out longer.mp4"]
        finish(written, then=[] if Path(self.image).is_dir() else then)
        if unread:
            raise ValueError(
                f"{len(unread)} of {len(unread) + len(written)} pictures were passed over. {' '.join(unread)}"
            )


@dataclass(frozen=True)
class Render:
    """Let a trained automaton grow on a canvas of any size: a picture of the end, or a film of all of it.

    For example, after `nca-fast texture skimage:brick --out runs/brick`:
        nca-fast render runs/brick --out brick.png
        nca-fast render runs/brick --height 1080 --width 1920 --out wallpaper.png
        nca-fast render runs/brick --size tile --out tile.png
        nca-fast render runs/brick --height 256 --width 256 --steps 1890 --zoom 2 --out brick.mp4

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
    """

    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """model.safetensors of a training, or its folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture of the last step (.png, .tif, .dzi, a pyramid that browsers open, of any size; .jpg, .webp, held in
    memory), or film (.mp4 .gif). An existing file is replaced."""
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
    """Pixels along the side of a cell, or from one hexagon to the next. None: 1, or 4 for what grows out of one cell,
    where no size is given."""
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
        *("out", "height", "width", "steps", "zoom", "seed"),
        *("texture", "paint", "start", "memory", "resume"),
    )

    def check(self) -> None:
        """Raises ValueError for what cannot be rendered."""
        _check_positive(self, "height", "width", "steps", "steps_per_frame", "fps", "zoom")
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
        for model in (self.model, *self.config.graft):
            check_model(model)

    def run(self, command: str) -> None:
        """Renders, and says what was written."""
        from nca_fast import processes
        from nca_fast.canvas.exchange import band_path
        from nca_fast.canvas.scene import Scene
        from nca_fast.canvas.start import find_paint
        from nca_fast.commands.models import open_model
        from nca_fast.commands.report import finish, resume_rendering
        from nca_fast.files import check_writable
        from nca_fast.hexagons import draws_hexagons
        from nca_fast.nca import NCA
        from nca_fast.rendering.film import film
        from nca_fast.rendering.picture import picture
        from nca_fast.textures import model_name

        if self.out.suffix.lower() in FILMS and processes.count() > 1:
            raise ValueError(f"a film must be made by one process, but torchrun started {processes.count()}.")
        nca, how = open_model(NCA, self.model, self.compute, *self.config.graft), self.compute.how
        if nca.start == "image" and self.config.start is None:
            again = f"nca-fast apply {shlex.quote(str(self.model))} PICTURE --out {shlex.quote(str(self.out))}"
            raise ValueError(f"{self.model} must get a picture, which it redraws: {again} (or --start PICTURE).")
        nca = self._moved(nca)
        height, width, steps, zoom = self._size(draws_hexagons(nca))
        same = {"seed": self.seed, "config": self.config, "name": model_name(self.model)}
        scene = Scene(nca, height, width, steps, **same, **how)
        for file in (self.out, self.save_state):
            if file is not None:
                check_writable(file.parent)
        scene = replace(scene, paint=find_paint(scene))
        if scene.paint is not None and scene.paint.said:
            print(scene.paint.said, flush=True)
        same = {"zoom": zoom, "save_state": self.save_state, "progress": streams.shows_progress()}
        if self.out.suffix.lower() in FILMS:
            files = film(scene, self.out, steps_per_frame=self.steps_per_frame, fps=self.fps, **same)
        else:
            kept = self.out
            if processes.count() > 1:
                torchrun = f"torchrun --nproc-per-node {processes.local_count()} -m nca_fast"
                command, kept = command.replace("nca-fast", torchrun, 1), band_path(self.out)
            with resume_rendering(command, kept):
                files = picture(scene, self.out, resume=self.resume, shared=True, **same)
        again = f"nca-fast render {shlex.quote(str(self.model))} --seed {self.seed + 1}"
        finish(files, then=[f"{again} --height {height} --width {2 * width} --out wide.png", f"{again} --out film.mp4"])

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

    def _size(self, hexagons: bool) -> tuple[int, int, int, int]:
        """Height, width, steps and zoom: what was asked for, or else what suits the model."""
        from nca_fast import checkpoint
        from nca_fast.canvas.start import file_size
        from nca_fast.rendering.size import sensible_size

        suits = sensible_size(checkpoint.load_metadata(model_file(self.model)).get("provenance", {}))
        height, width, zoom = self.height, self.width, suits.zoom
        if self.size == "tile":
            height, width = TILE, TILE // 2 if hexagons else TILE
        elif self.size is not None:
            first, _, second = self.size.partition("x")
            height, width = int(first), int(second or first)
        if self.config.start_file is not None and None in (height, width):
            of_file = file_size(self.config.start_file)
            height, width, zoom = height or of_file[0], width or of_file[1], 1
        elif (height, width) != (None, None):
            height, width, zoom = height or width, width or height, 1
        return height or suits.side, width or suits.side, self.steps or suits.steps, self.zoom or zoom


def _check_positive(command: Apply | Render, *names: str) -> None:
    for name in names:
        value = getattr(command, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}.")
