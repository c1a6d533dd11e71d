"""Commands about VAE-NCA: a network that writes, for every picture, the rule that grows it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nca_fast.commands.report import print_files, print_result, says_how_to_go_on
from nca_fast.systems.vae import drawing as vae_drawing
from nca_fast.systems.vae.model import VAENCA
from nca_fast.systems.vae.settings import VAEConfig
from nca_fast.systems.vae.training import train_vae

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Vae:
    """Learn a set of pictures: a network that looks at a picture and writes the rule of an automaton that grows it.

    For example, with digits or faces that come with scikit-learn and scikit-image, with MNIST's IDX files or CIFAR-10's
    binary version in a folder, or with a folder of pictures:
        nca-fast vae digits --out runs/digits
        nca-fast vae ~/mnist --batch-size 64 --out runs/mnist
        nca-fast vae photos --preset vae-face --damage 4 --out runs/photos

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast vae --out runs/digits --resume

    DIR then holds reconstructions.png (test pictures, and below each what was made of it), samples.png (from the
    prior), interpolation.png, growth.png, growth.mp4, preview.png, model.safetensors, log.jsonl and
    training.safetensors (for --resume). What to do with it:
        nca-fast vae fuse digits:0 digits:3 --model runs/digits --out fused.png
        nca-fast vae repair photo.jpg --model runs/photos --out repaired.png
        nca-fast vae outpaint photo.jpg --model runs/photos --height 60 --width 60 --out larger.png
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; made when missing."""
    dataset: Annotated[
        Positional[str | None], tyro.conf.arg(metavar="DATASET", help_behavior_hint="(not needed with --resume)")
    ] = None
    """Pictures to learn: digits, faces, or a folder."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in DIR. More iterations may be asked for."""
    config: Annotated[VAEConfig, tyro.conf.arg(name="")] = field(default_factory=VAEConfig)

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        with says_how_to_go_on("vae", self.out):
            result = train_vae(self.config, self.dataset, self.out, resume=self.resume, command=command)
        print_result(result)
        share = result.test_error / result.mean_error
        print(f"mean squared error of test pictures {result.test_error:.4f}, {share:.2f} of that of the mean picture")


@dataclass(frozen=True)
class VaeFuse:
    """Grow what two pictures have in common: their rules take turns, a step each.

    For example, after `nca-fast vae digits --out runs/digits`:
        nca-fast vae fuse digits:0 digits:3 --model runs/digits --out fused.png
    """

    a: Annotated[Positional[str], tyro.conf.arg(metavar="A")]
    """Picture file, or DATASET:NUMBER for one of the test pictures of a set."""
    b: Annotated[Positional[str], tyro.conf.arg(metavar="B")]
    """The other one."""
    model: Path
    """model.safetensors of a training, or its folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .jpg .webp): A, B, what the model makes of each, and of both."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    backend: Literal["reference", "cpu"] | None = None
    """What computes. None: the fastest that this machine has."""

    def run(self, command: str) -> None:
        """Draws, and says what was written."""
        model = VAENCA.from_pretrained(self.model)
        vae_drawing.draw_fusion(model, self.a, self.b, self.out, seed=self.seed, backend=self.backend)
        print_files([self.out])


@dataclass(frozen=True)
class VaeRepair:
    """Mend a picture, with a model that was trained on damaged ones.

    For example, after `nca-fast vae photos --preset vae-face --damage 4 --out runs/photos`:
        nca-fast vae repair photo.jpg --model runs/photos --out repaired.png
    """

    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """Picture file, or DATASET:NUMBER for one of the test pictures of a set."""
    model: Path
    """model.safetensors of a training, or its folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .jpg .webp): the image, the damaged image if any, and the repaired one."""
    damage: int = 0
    """Erase so many circles first, to see how well it works. 0: the image is damaged already."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    backend: Literal["reference", "cpu"] | None = None
    """What computes. None: the fastest that this machine has."""

    def run(self, command: str) -> None:
        """Draws, and says what was written."""
        model = VAENCA.from_pretrained(self.model)
        vae_drawing.draw_repair(model, self.image, self.damage, self.out, seed=self.seed, backend=self.backend)
        print_files([self.out])


@dataclass(frozen=True)
class VaeOutpaint:
    """Continue a picture beyond its edges: its rule runs on a larger canvas around it.

    For example, after `nca-fast vae photos --preset vae-face --out runs/photos`:
        nca-fast vae outpaint photo.jpg --model runs/photos --height 60 --width 60 --out larger.png
    """

    image: Annotated[Positional[str], tyro.conf.arg(metavar="IMAGE")]
    """Picture file, or DATASET:NUMBER for one of the test pictures of a set."""
    model: Path
    """model.safetensors of a training, or its folder."""
    height: int
    """Rows of the canvas, in cells."""
    width: int
    """Columns of the canvas, in cells."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Picture (.png .jpg .webp) of the canvas."""
    seed: int = 0
    """Fixes all randomness: the same seed draws the same cells."""
    backend: Literal["reference", "cpu"] | None = None
    """What computes. None: the fastest that this machine has."""

    def run(self, command: str) -> None:
        """Draws, and says what was written."""
        model = VAENCA.from_pretrained(self.model)
        options = {"seed": self.seed, "backend": self.backend}
        vae_drawing.draw_outpainting(model, self.image, self.height, self.width, self.out, **options)
        print_files([self.out])
