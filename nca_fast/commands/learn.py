"""Commands that train an automaton of their own."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nca_fast.commands.report import print_result, says_how_to_go_on
from nca_fast.systems.clip import train_clip
from nca_fast.systems.clip_settings import ClipConfig
from nca_fast.systems.growing import train_growing
from nca_fast.systems.growing_config import GrowingConfig
from nca_fast.systems.style import train_style
from nca_fast.systems.style_settings import StyleConfig
from nca_fast.systems.texture import TextureConfig, train_texture
from nca_fast.training import run_folder

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Texture:
    """Learn a texture from one picture, and draw and film what was learned.

    For example, with a picture that comes with scikit-image:
        nca-fast texture skimage:brick --out runs/brick

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast texture --out runs/brick --resume

    DIR then holds texture.png, texture.mp4, preview.png (the target and what was grown on the way), model.safetensors
    (for `nca-fast render` and NCA.from_pretrained), log.jsonl and training.safetensors (for --resume).
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; made when missing."""
    image: Annotated[
        Positional[str | None], tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(not needed with --resume)")
    ] = None
    """Picture to learn: a file, or skimage:brick, skimage:grass, skimage:gravel, skimage:coffee ..."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in DIR. More iterations may be asked for."""
    config: Annotated[TextureConfig, tyro.conf.arg(name="")] = field(default_factory=TextureConfig)

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        with says_how_to_go_on("texture", self.out):
            result = train_texture(self.config, self.image, self.out, resume=self.resume, command=command)
        print_result(result)
        model = shlex.quote(str(self.out / run_folder.MODEL_FILE))
        print(f"next: nca-fast render {model} --height 1024 --width 1024 --steps 300 --out big.png")


@dataclass(frozen=True)
class Style:
    """Learn to redraw any picture in the style of one.

    For example, with pictures that come with scikit-image:
        nca-fast style skimage:immunohistochemistry --content skimage:astronaut skimage:chelsea --out runs/tissue
        nca-fast apply runs/tissue photo.jpg --out photo-tissue.png

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast style --out runs/tissue --resume

    DIR then holds restyled.png and restyled.mp4 (the first content picture), preview.png (the style, a square of a
    content picture, and what became of it on the way), model.safetensors (for `nca-fast apply` and
    NCA.from_pretrained), log.jsonl, and training.safetensors and pictures.safetensors (for --resume).
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; made when missing."""
    style: Annotated[
        Positional[str | None], tyro.conf.arg(metavar="STYLE", help_behavior_hint="(not needed with --resume)")
    ] = None
    """Picture whose style to learn: a file, or skimage:immunohistochemistry, skimage:gravel ..."""
    content: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="IMAGE_OR_FOLDER [...]", help_behavior_hint="(not needed with --resume)"),
    ] = ()
    """Pictures to learn it on: files, folders, skimage:astronaut ... The more they differ, the better."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in DIR. More iterations may be asked for."""
    config: Annotated[StyleConfig, tyro.conf.arg(name="")] = field(default_factory=StyleConfig)

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        with says_how_to_go_on("style", self.out):
            result = train_style(self.config, self.style, self.content, self.out, resume=self.resume, command=command)
        print_result(result)
        print(f"next: nca-fast apply {shlex.quote(str(self.out))} PICTURE --out restyled.png")


@dataclass(frozen=True)
class Clip:
    """Learn to grow what a sentence says, or to change pictures until they fit it.

    For example, with the small CLIP model that comes along, which knows colours and patterns:
        nca-fast clip "thin blue horizontal stripes" --out runs/stripes
        nca-fast clip "red bricks" "noise:-0.3" --out runs/bricks
        nca-fast clip "orange leopard fur" --content skimage:chelsea --out runs/leopard

    With a real one, which is downloaded once (350 MB) and wants a larger canvas and patience on a CPU:
        nca-fast clip "underwater bioluminescence" --model ViT-B-32-quickgelu --pretrained openai --image-size 128 \
            --out runs/sea

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast clip --out runs/stripes --resume

    On two processes: torchrun --nproc-per-node 2 -m nca_fast clip "red bricks" --batch-size 2 --out runs/bricks

    DIR then holds clip.png, clip.mp4, preview.png (the start, and what was grown of it on the way), model.safetensors
    (for `nca-fast render`, or with --content for `nca-fast apply`), log.jsonl and training.safetensors (for --resume).
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; made when missing."""
    prompts: Annotated[
        Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="PROMPT [...]", help_behavior_hint="(not needed with --resume)"),
    ] = ()
    """What to grow: TEXT, or TEXT:WEIGHT; a negative weight pushes away ("noise:-0.3")."""
    content: Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE_OR_FOLDER [...]")] = ()
    """Pictures to change: files, folders, skimage:astronaut ... None: grow out of noise."""
    recipe: Literal["deb", "petersen"] | None = None
    """Begin with the settings of a published system instead of the defaults: deb grows out of noise by the raw dot
    product of the whole picture, petersen changes pictures. Both want a real CLIP model, petersen VGG-19 too."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in DIR. More iterations may be asked for."""
    config: Annotated[ClipConfig, tyro.conf.arg(name="")] = field(default_factory=ClipConfig)

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        with says_how_to_go_on("clip", self.out):
            result = train_clip(self.config, self.prompts, self.content, self.out, resume=self.resume, command=command)
        print_result(result)
        out = shlex.quote(str(self.out))
        if result.nca.start == "image":
            print(f"next: nca-fast apply {out} PICTURE --out changed.png")
        else:
            print(f"next: nca-fast render {out} --height 1024 --width 1024 --steps 300 --out big.png")


@dataclass(frozen=True)
class Grow:
    """Learn to grow a small picture out of one cell, to keep it, and to mend it after damage.

    For example, with the ladybird that comes with the source code, or any picture with a transparent background:
        nca-fast grow examples/ladybird.png --out runs/ladybird

    Ctrl-C stops and saves. To go on, after that or after a crash (the other settings are remembered):
        nca-fast grow --out runs/ladybird --resume

    DIR then holds regrowth.png (the target, what was grown, wounded, and regrown), growing.mp4, preview.png (the
    target and what was grown on the way), model.safetensors (for `nca-fast render` and NCA.from_pretrained), log.jsonl
    and training.safetensors (for --resume).
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the results; made when missing."""
    image: Annotated[
        Positional[str | None], tyro.conf.arg(metavar="IMAGE", help_behavior_hint="(not needed with --resume)")
    ] = None
    """Picture file to grow; it should have a transparent background."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with the run in DIR. More iterations may be asked for."""
    config: Annotated[GrowingConfig, tyro.conf.arg(name="")] = field(default_factory=GrowingConfig)

    def run(self, command: str) -> None:
        """Trains, and says what was written and how to go on."""
        with says_how_to_go_on("grow", self.out):
            result = train_growing(self.config, self.image, self.out, resume=self.resume, command=command)
        print_result(result)
        print(f"next: nca-fast render {shlex.quote(str(self.out))} --height 64 --width 64 --steps 200 --out grown.mp4")
