"""The command that shows all textures that an automaton knows, and what lies between them."""

import shlex
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nca_fast.canvas.settings import CanvasConfig, MemoryOption
from nca_fast.commands import streams
from nca_fast.compute import ComputeConfig
from nca_fast.media import endings
from nca_fast.pretrained import check_model

if TYPE_CHECKING:
    from torch import Tensor

    from nca_fast.nca import NCA


@dataclass(frozen=True)
class Sheet:
    """Draw all textures that an automaton knows, and blends of every two of them, as one picture.

    For example, after `nca-fast texture skimage:brick skimage:grass skimage:gravel --out runs/ground`:
        nca-fast sheet runs/ground --out sheet.png

    The row of one texture and the column of another hold two parts of the former and one of the latter; the textures
    themselves are on the diagonal. Every square is a torus of its own.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """model.safetensors of a training on several pictures, its folder, or hf:USER/NAME."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .jpg .webp). An existing file is replaced."""
    side: int = 96
    """Rows and columns of each square, in cells."""
    steps: int = 300
    """Updates of every cell."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    memory: MemoryOption = None
    """Memory that the canvas may take, such as 2GiB; what needs more is computed strip by strip. None: what is free."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    def check(self) -> None:
        """Raises ValueError or OSError for a model that is not there, an ending or a memory that is none."""
        endings.check_picture(self.out)
        check_model(self.model)
        CanvasConfig(memory=self.memory).check()

    def run(self, command: str) -> None:
        """Draws, and says in which order and what was written."""
        from tqdm import tqdm

        from nca_fast.commands.ending import finish
        from nca_fast.commands.models import open_model
        from nca_fast.files import check_writable
        from nca_fast.media.images import image_grid, save_image
        from nca_fast.nca import NCA

        check_writable(self.out.parent)
        nca = open_model(NCA, self.model, self.compute)
        if not nca.textures:
            raise ValueError(
                f"{self.model} must know several textures to make a sheet of, but knows one alone: nca-fast render "
                "draws it."
            )
        names = list(nca.textures)
        pairs = tqdm(list(product(names, names)), desc=str(self.out), disable=not streams.shows_progress())
        squares = [self._drawn(nca, row, column) for row, column in pairs]
        save_image(image_grid(squares, len(names), pad=4), self.out)
        draw = f"nca-fast render {shlex.quote(str(self.model))} --texture"
        then = [f"{draw} {names[0]} --out {names[0]}.png", f"{draw} {names[0]}:1,{names[1]}:2 --out blend.png"]
        finish([self.out], [f"rows and columns: {', '.join(names)}"], then, textures=names)

    def _drawn(self, nca: "NCA", row: str, column: str) -> "Tensor":
        from nca_fast.canvas.scene import Scene
        from nca_fast.canvas.start import find_paint, simplified
        from nca_fast.rendering.render import render

        config = CanvasConfig(memory=self.memory, texture=row if row == column else f"{row}:2,{column}:1")
        scene = Scene(nca, self.side, self.side, self.steps, seed=self.seed, config=config, **self.compute.how)
        scene = simplified(replace(scene, paint=find_paint(scene)))
        return scene.nca.to_rgb(render(scene))[0].cpu()
