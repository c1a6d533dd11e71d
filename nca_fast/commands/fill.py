"""The command that puts a texture into an area of a picture."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nca_fast import zoo
from nca_fast.canvas.settings import CanvasConfig, MemoryOption
from nca_fast.choices import BlendName
from nca_fast.commands import streams
from nca_fast.commands.again import again
from nca_fast.compute import ComputeConfig
from nca_fast.media.endings import PICTURES
from nca_fast.media.sources import SKIMAGE, check_picture_source
from nca_fast.pretrained import HUB, check_model, model_file

STEPS = 300


@dataclass(frozen=True)
class Fill:
    """Put a texture into an area of a picture, with a border that nobody sees.

    For example, gravel that comes with nca_fast in place of what a mask shows white (or opaque):
        nca-fast fill photo.png --mask mask.png --texture zoo:gravel --out filled.png

    A swatch of yours, of 24 x 24 pixels or more: it is learned on the spot, and kept for the next picture:
        nca-fast fill photo.png --mask mask.png --texture swatch.png --out filled.png
        nca-fast fill other.png --mask other-mask.png --texture filled-texture --out other-filled.png

    Where light and shadow of the photograph stay; two parts grass and one part brick of a run that knows both:
        nca-fast fill photo.png --mask mask.png --texture zoo:weave --light 1 --out filled.png
        nca-fast fill photo.png --mask mask.png --model runs/ground --texture grass:2,brick:1 --out filled.png
    """

    photo: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PHOTO")]
    """Picture, or skimage:NAME."""
    mask: Annotated[str, tyro.conf.arg(metavar="MASK")]
    """Picture of the same size: the texture goes where it is white, or, if it is transparent anywhere, where it is
    opaque. Greys are in between."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .tif .dzi .jpg .webp). An existing file is replaced. What is transparent in PHOTO stays so."""
    texture: Annotated[str | None, tyro.conf.arg(metavar="SWATCH|RUN|zoo:NAME|NAME:SHARE,...")] = None
    """A picture to learn (or skimage:NAME), a trained automaton, or with --model what that shall draw."""
    model: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """An automaton that knows several textures; --texture then names one, or a blend, as in nca-fast render."""
    soft: int = 6
    """Width of the border in pixels, in which picture and texture are mixed in linear light. 0: as sharp as MASK."""
    blend: BlendName = "soft"
    """soft mixes at the border alone. poisson also shifts the colours of the texture so that they meet those around
    it, as gradient-domain editing does."""
    light: float = 0.0
    """How much of the light that lies on the area in PHOTO stays, brighter and darker without detail: 0 to 1."""
    strength: float = 1.0
    """How opaque the texture is, 0 to 1."""
    zoom: float = 1.0
    """Pixels along the side of a cell. A training says how many pixels of its swatch a cell is: with so many the
    texture is as large as it was there."""
    steps: int | None = None
    """Updates of every cell. None: 300, or as many as the training took for its own pictures if those are more."""
    minutes: float = 1.0
    """Learn a swatch for at most so many minutes."""
    keep: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for what was learned of a swatch; a run that is there is gone on with. None: FILE without its ending, and
    -texture."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    memory: MemoryOption = None
    """Memory that the canvas may take, such as 2GiB; what needs more is computed strip by strip. None: what is free."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    main: ClassVar[tuple[str, ...]] = ("mask", "out", "texture", "soft", "blend", "light", "strength", "zoom", "seed")

    def check(self) -> None:
        """Raises ValueError for what cannot be done."""
        CanvasConfig(memory=self.memory).check()
        if self.texture is None and self.model is None:
            raise ValueError("texture must be given: a picture to learn, a trained run, or zoo:NAME (nca-fast zoo).")
        for name in ("light", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, but got {getattr(self, name)}.")
        if not 0.1 <= self.zoom <= 100:
            raise ValueError(f"zoom must be from 0.1 to 100 pixels for a cell, but got {self.zoom}.")
        for name, least in (("soft", 0), ("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, but got {value}.")
        if not 0 < self.minutes < float("inf"):
            raise ValueError(f"minutes must be above 0 and finite, but got {self.minutes}.")
        if self.out.suffix.lower() not in PICTURES:
            raise ValueError(f"out must end in one of {', '.join(PICTURES)}, but got {str(self.out)!r}.")
        check_picture_source(self.photo, what="photo")
        check_picture_source(self.mask, what="mask")
        if self._trained is None:
            ready = [f"{zoo.PREFIX}{name}" for name in zoo.names()]
            check_picture_source(self.texture, what="texture", others=ready)
        else:
            check_model(self._trained)

    def run(self, command: str) -> None:
        """Learns a swatch if there is one, lets the texture grow, and says what was written."""
        from nca_fast import checkpoint
        from nca_fast.commands.ending import finish
        from nca_fast.commands.models import open_model
        from nca_fast.files import check_writable
        from nca_fast.media.formats import check_picture, write_picture
        from nca_fast.media.images import load_image, load_straight, to_uint8
        from nca_fast.nca import NCA
        from nca_fast.rendering.fill import filled, grown, is_unlike, read_area
        from nca_fast.rendering.size import sensible_size

        photo, alpha = load_straight(self.photo)
        height, width = photo.shape[1:]
        check_picture(self.out, height, width)
        area = read_area(self.mask, height, width, self.soft)
        check_writable(self.out.parent)
        model, names = self._trained or self._learned(), self.texture if self.model is not None else None
        nca = open_model(NCA, model, self.compute)
        steps = self.steps or max(STEPS, sensible_size(checkpoint.facts_of(model_file(model))).steps)
        shown = self.out.name if streams.shows_progress() else None
        texture = grown(nca, area, self.zoom, steps, names, self.seed, self.memory, shown, **self.compute.how)
        result = filled(photo, texture, area, self.blend, self.light, self.strength)
        opaque = None if alpha is None else (alpha * 255).round().byte().numpy()
        files = write_picture(self.out, height, width, [to_uint8(result)], opaque)
        learned: dict[str, object] = {}
        if self._trained is None:
            files, learned = [*files, model_file(model)], {"minutes": None, "keep": None, "texture": model}
            if is_unlike(texture, area, load_image(self.texture)):
                warnings.warn(
                    f"the texture in {self.out.name} is far from the swatch's colours: train longer, --minutes "
                    f"{2 * self.minutes:g}.",
                    stacklevel=2,
                )
        lit = {"light": 0 if self.light else 1}
        then = [
            again(command, type(self), **learned, **changed, out="other.png")
            for changed in ({"seed": self.seed + 1}, lit)
        ]
        finish(files, then=then)

    @property
    def _trained(self) -> str | None:
        """The automaton that was named; None where a swatch is to be learned."""
        if self.model is not None:
            return self.model
        named = self.texture.startswith((zoo.PREFIX, HUB)) or self.texture.endswith(".safetensors")
        folder = not self.texture.startswith(SKIMAGE) and Path(self.texture).is_dir()
        return self.texture if named or folder else None

    def _learned(self) -> str:
        """Learns a swatch, and says where that is kept."""
        from nca_fast.commands.report import resume_training
        from nca_fast.systems.texture import Texture
        from nca_fast.systems.texture_settings import TextureConfig, TextureSources
        from nca_fast.training.session import run_training

        out = self.keep or self.out.with_name(f"{self.out.stem}-texture")
        how = {"device": self.compute.device, "threads": self.compute.threads, **self.compute.how}
        config = TextureConfig(minutes=self.minutes, video_steps=0, seed=self.seed, **how)
        options = {"resume": True, "say": streams.say_above, "wait": streams.waiting}
        options["progress"] = streams.shows_progress()
        with resume_training(Texture.name, out):
            result = run_training(Texture, TextureSources(self.texture), out, config, **options)
        if result.runs_away:
            streams.say_above(f"the automaton {result.endured}: take another --seed, or more --minutes.")
        return str(out)
