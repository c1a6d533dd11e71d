"""Commands that draw what an automaton has learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nca_fast.commands.report import print_files
from nca_fast.files import check_writable
from nca_fast.nca import NCA
from nca_fast.rendering.apply import FILMS, apply, shown_steps
from nca_fast.rendering.canvas import even_speed, speed_ramp
from nca_fast.rendering.show import film, picture

PICTURES = (".png", ".jpg", ".jpeg", ".webp")

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Apply:
    """Let a trained automaton redraw a picture, or all pictures of a folder, at any size.

    For example, after `nca-fast style skimage:immunohistochemistry --content photos --out runs/tissue`:
        nca-fast apply runs/tissue photo.jpg --out photo-tissue.png
        nca-fast apply runs/tissue photo.jpg --max-size 480 --steps 96 --out photo-tissue.mp4
        nca-fast apply runs/tissue photos --out photos-tissue
    """

    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """model.safetensors of a training, or its folder."""
    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE_OR_FOLDER")]
    """Picture to redraw, skimage:NAME, or a folder of pictures."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE_OR_FOLDER")]
    """Picture (.png .jpg .webp) or film of the process (.mp4 .gif); for a folder, the folder for its pictures (.png).
    Existing files are replaced."""
    steps: int | None = None
    """Updates of every cell. None: as many as the training took for its own pictures (picture_steps). Several times as
    many may end in wild colors."""
    max_size: int | None = None
    """Longer side in pixels, to which larger pictures are shrunk. None: as large as they are."""
    steps_per_frame: int = 1
    """Film: steps between two frames."""
    fps: int = 30
    """Film: frames per second."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    backend: Literal["reference", "cpu"] | None = None
    """What computes. None: the fastest that this machine has."""

    def check(self) -> None:
        """Raises ValueError for what cannot be done."""
        for name in ("steps", "max_size", "steps_per_frame", "fps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, but got {self.seed}.")
        suffix = self.out.suffix.lower()
        if not Path(self.image).is_dir() and suffix not in PICTURES + FILMS:
            raise ValueError(f"out must end in one of {', '.join(PICTURES + FILMS)}, but got {str(self.out)!r}.")
        if suffix not in FILMS and (self.steps_per_frame, self.fps) != (type(self).steps_per_frame, type(self).fps):
            raise ValueError(f"steps_per_frame and fps must go with a film (.mp4, .gif), but out is {str(self.out)!r}.")

    def run(self, command: str) -> None:
        """Redraws, and says what was written and what could not be read."""
        self.check()
        nca = NCA.from_pretrained(self.model)
        steps = shown_steps(self.model) if self.steps is None else self.steps
        options = {name: getattr(self, name) for name in ("max_size", "seed", "backend", "steps_per_frame", "fps")}
        written, unread = apply(nca, self.image, self.out, steps, progress=True, **options)
        print_files(written)
        if unread:
            raise ValueError(
                f"{len(unread)} of {len(unread) + len(written)} pictures were passed over. {' '.join(unread)}"
            )


@dataclass(frozen=True)
class Render:
    """Let a trained automaton grow on a canvas of any size: a picture of the end, or a film of all of it.

    For example, after `nca-fast texture skimage:brick --out runs/brick`:
        nca-fast render runs/brick --height 1024 --width 1024 --steps 300 --out brick.png
        nca-fast render runs/brick --height 256 --width 256 --steps 1890 --zoom 2 --out brick.mp4
    """

    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """model.safetensors of a training, or its folder."""
    height: int
    """Rows of the canvas, in cells."""
    width: int
    """Columns of the canvas, in cells."""
    steps: int
    """Updates of every cell. A texture is there after about 100."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .jpg .webp) of the last step, or film (.mp4 .gif). An existing file is replaced."""
    steps_per_frame: int | None = None
    """Film: steps between two frames. None: 1 in the first second, then 2, 4, and 8."""
    fps: int = 30
    """Film: frames per second."""
    zoom: int = 1
    """Pixels along the side of a cell."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    backend: Literal["reference", "cpu"] | None = None
    """What computes. None: the fastest that this machine has."""

    def check(self) -> None:
        """Raises ValueError for what cannot be rendered."""
        for name in ("height", "width", "steps", "steps_per_frame", "fps", "zoom"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, but got {self.seed}.")
        if self.out.suffix.lower() not in PICTURES + FILMS:
            raise ValueError(f"out must end in one of {', '.join(PICTURES + FILMS)}, but got {str(self.out)!r}.")
        still = self.out.suffix.lower() in PICTURES
        if still and (self.steps_per_frame, self.fps) != (None, type(self).fps):
            raise ValueError(f"steps_per_frame and fps must go with a film (.mp4, .gif), but out is {str(self.out)!r}.")

    def run(self, command: str) -> None:
        """Renders, and says what was written."""
        self.check()
        nca = NCA.from_pretrained(self.model)
        check_writable(self.out.parent)
        same = {"seed": self.seed, "backend": self.backend, "zoom": self.zoom, "progress": True}
        if self.out.suffix.lower() in PICTURES:
            picture(nca, self.height, self.width, self.steps, self.out, **same)
        else:
            every = self.steps_per_frame
            frames = speed_ramp(self.steps) if every is None else even_speed(self.steps, every)
            film(nca, self.height, self.width, frames, self.out, fps=self.fps, **same)
        print_files([self.out])
