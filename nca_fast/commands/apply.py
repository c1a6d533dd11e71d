"""The command that lets an automaton redraw pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nca_fast.canvas.settings import CanvasConfig, MemoryOption
from nca_fast.commands import streams
from nca_fast.commands.again import again
from nca_fast.commands.models import model_shares
from nca_fast.commands.numbers import check_positive
from nca_fast.compute import ComputeConfig
from nca_fast.media.endings import FILMS, PICTURES
from nca_fast.media.sources import check_picture_source
from nca_fast.pretrained import check_model

Positional = tyro.conf.Positional


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
    """model.safetensors of a training, its folder, zoo:NAME or hf:USER/NAME. Several that were trained with one preset,
    each with a share, redraw together: every step changes the colours by the weighted mean of what each would do. Only
    the ratios of the shares count."""
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
        check_positive(self, "steps", "max_size", "steps_per_frame", "fps")
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
        from nca_fast.commands.ending import finish
        from nca_fast.commands.models import open_model
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
        of_films, folder = dict.fromkeys(("steps_per_frame", "fps")), Path(self.image).is_dir()
        then = [
            again(command, type(self), **of_films, strength=self.strength / 2, out="weaker" + ".png" * (not folder)),
            again(command, type(self), steps=2 * steps, out="longer" + ".mp4" * (not folder)),
        ]
        finish(written, then=then)
        if unread:
            raise ValueError(
                f"{len(unread)} of {len(unread) + len(written)} pictures were passed over. {' '.join(unread)}"
            )
