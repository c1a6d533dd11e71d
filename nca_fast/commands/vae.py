"""Commands about a trained VAE-NCA: what two pictures have in common, repair, and what lies beyond the edges."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from nca_fast.canvas.settings import MemoryOption
from nca_fast.commands.again import again
from nca_fast.compute import ComputeConfig
from nca_fast.pretrained import check_model

if TYPE_CHECKING:
    from nca_fast.systems.vae.model import VAENCA

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Drawing:
    """What all these commands have."""

    model: Path
    """model.safetensors of a training, its folder, or hf:USER/NAME."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .jpg .webp) to write."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    def check(self) -> None:
        """Raises ValueError or OSError for a model that is not there."""
        check_model(self.model)

    def open(self) -> "tuple[VAENCA, dict[str, Any]]":
        """Reads the model onto its device; with it come the keyword arguments that `drawing` takes."""
        from nca_fast.commands.models import open_model
        from nca_fast.systems.vae.model import VAENCA

        return open_model(VAENCA, self.model, self.compute), {"seed": self.seed} | self.compute.how

    def beyond(self, image: str, vae: "VAENCA") -> str:
        """Spells the command that continues a picture to twice its size."""
        side = 2 * vae.architecture.size
        picture, model = shlex.quote(image), shlex.quote(str(self.model))
        return f"nca-fast vae outpaint {picture} --model {model} --height {side} --width {side} --out larger.png"


@dataclass(frozen=True, kw_only=True)
class VaeFuse(Drawing):
    """Grow what two pictures have in common: their rules take turns, a step each.

    For example, after `nca-fast vae digits --out runs/digits`:
        nca-fast vae fuse digits:0 digits:3 --model runs/digits --out fused.png

    The picture shows A, B, what the model makes of each, and of both.
    """

    a: Annotated[Positional[str], tyro.conf.arg(metavar="A")]
    """Picture file, or DATASET:NUMBER: digits:3 is test picture number 3 of the set, whichever digit that shows."""
    b: Annotated[Positional[str], tyro.conf.arg(metavar="B")]
    """The other one."""

    def run(self, command: str) -> None:
        """Draws, and says what was written."""
        from nca_fast.commands.ending import finish, page
        from nca_fast.systems.vae import drawing

        vae, how = self.open()
        drawing.draw_fusion(vae, self.a, self.b, self.out, **how)
        finish([self.out], then=[self.beyond(self.a, vae), page(str(self.model))])


@dataclass(frozen=True, kw_only=True)
class VaeRepair(Drawing):
    """Mend a picture, with a model that was trained on damaged ones.

    For example, after `nca-fast vae photos --preset vae-face --damage 4 --out runs/photos`:
        nca-fast vae repair photo.jpg --model runs/photos --out repaired.png

    The picture shows the image, the damaged image if any, and the repaired one.
    """

    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """Picture file, or DATASET:NUMBER for one of the test pictures of a set."""
    damage: int = 0
    """Erase so many circles first, to see how well it works. 0: the image is damaged already."""

    def run(self, command: str) -> None:
        """Draws, and says what was written."""
        from nca_fast.commands.ending import finish, page
        from nca_fast.systems.vae import drawing

        vae, how = self.open()
        drawing.draw_repair(vae, self.image, self.damage, self.out, **how)
        finish([self.out], then=[self.beyond(self.image, vae), page(str(self.model))])


@dataclass(frozen=True, kw_only=True)
class VaeOutpaint(Drawing):
    """Continue a picture beyond its edges: its rule runs on a larger canvas around it.

    For example, after `nca-fast vae photos --preset vae-face --out runs/photos`:
        nca-fast vae outpaint photo.jpg --model runs/photos --height 60 --width 60 --out larger.png
    """

    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """Picture file, or DATASET:NUMBER for one of the test pictures of a set."""
    height: int
    """Rows of the canvas, in cells."""
    width: int
    """Columns of the canvas, in cells."""
    memory: MemoryOption = None
    """Memory that the canvas may take, such as 2GiB; a larger canvas is refused. None: what is free."""

    def run(self, command: str) -> None:
        """Draws, and says what was written."""
        from nca_fast.commands.ending import finish, page
        from nca_fast.systems.vae import drawing
        from nca_fast.training.system import check_memory

        vae, how = self.open()
        needed = 3 * 4 * vae.rule.channels * self.height * self.width  # the state, the next one, and what is shown
        check_memory(needed, f"{self.height} x {self.width} cells", vae.device, self.memory)
        drawing.draw_outpainting(vae, self.image, self.height, self.width, self.out, **how)
        then = [again(command, type(self), seed=self.seed + 1, out="other.png"), page(str(self.model))]
        finish([self.out], then=then)
