"""The command line: `nca-fast texture`, `style`, `clip`, `vae` and `grow` learn, `nca-fast render` and `apply` show.

The options are the fields of the dataclasses here and in `training`, read by tyro. Only this module prints and exits.
"""

import argparse
import contextlib
import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Union

import tyro

import nca_fast
from nca_fast import checkpoint
from nca_fast.files import check_writable
from nca_fast.models import vae_drawing
from nca_fast.models.vae_nca import VAENCA
from nca_fast.rendering.apply import FILMS, apply, shown_steps
from nca_fast.rendering.canvas import even_speed, speed_ramp
from nca_fast.rendering.show import film, picture
from nca_fast.training import distributed, run_folder
from nca_fast.training.clip_config import RECIPES, ClipConfig
from nca_fast.training.clip_guided import train_clip
from nca_fast.training.growing import train_growing
from nca_fast.training.growing_config import GrowingConfig
from nca_fast.training.session import TrainingResult
from nca_fast.training.style_config import StyleConfig
from nca_fast.training.style_transfer import train_style
from nca_fast.training.texture import TextureConfig, train_texture
from nca_fast.training.vae import VAEResult, train_vae
from nca_fast.training.vae_config import VAEConfig

PICTURES = (".png", ".jpg", ".jpeg", ".webp")

DESCRIPTION = """Fast neural cellular automata.

Begin with: nca-fast texture skimage:brick --out runs/brick

Every command has its own help: nca-fast texture --help

The version: nca-fast --version"""

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
        with _says_how_to_go_on("texture", self.out):
            result = train_texture(self.config, self.image, self.out, resume=self.resume, command=command)
        _print_result(result)
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
        with _says_how_to_go_on("style", self.out):
            result = train_style(self.config, self.style, self.content, self.out, resume=self.resume, command=command)
        _print_result(result)
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
        with _says_how_to_go_on("clip", self.out):
            result = train_clip(self.config, self.prompts, self.content, self.out, resume=self.resume, command=command)
        _print_result(result)
        out = shlex.quote(str(self.out))
        if result.nca.start == "image":
            print(f"next: nca-fast apply {out} PICTURE --out changed.png")
        else:
            print(f"next: nca-fast render {out} --height 1024 --width 1024 --steps 300 --out big.png")


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
        with _says_how_to_go_on("vae", self.out):
            result = train_vae(self.config, self.dataset, self.out, resume=self.resume, command=command)
        _print_result(result)
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
        _print_files([self.out])


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
        _print_files([self.out])


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
        _print_files([self.out])


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
        with _says_how_to_go_on("grow", self.out):
            result = train_growing(self.config, self.image, self.out, resume=self.resume, command=command)
        _print_result(result)
        print(f"next: nca-fast render {shlex.quote(str(self.out))} --height 64 --width 64 --steps 200 --out grown.mp4")


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
        nca = nca_fast.NCA.from_pretrained(self.model)
        steps = shown_steps(self.model) if self.steps is None else self.steps
        options = {name: getattr(self, name) for name in ("max_size", "seed", "backend", "steps_per_frame", "fps")}
        written, unread = apply(nca, self.image, self.out, steps, progress=True, **options)
        _print_files(written)
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
        nca = nca_fast.NCA.from_pretrained(self.model)
        check_writable(self.out.parent)
        same = {"seed": self.seed, "backend": self.backend, "zoom": self.zoom, "progress": True}
        if self.out.suffix.lower() in PICTURES:
            picture(nca, self.height, self.width, self.steps, self.out, **same)
        else:
            every = self.steps_per_frame
            frames = speed_ramp(self.steps) if every is None else even_speed(self.steps, every)
            film(nca, self.height, self.width, frames, self.out, fps=self.fps, **same)
        _print_files([self.out])


@contextlib.contextmanager
def _says_how_to_go_on(command: str, out: Path) -> Iterator[None]:
    """Adds to a Ctrl-C in training with which command the run in folder `out` is resumed."""
    try:
        yield
    except KeyboardInterrupt:
        if (out / run_folder.TRAINING_FILE).exists():
            raise KeyboardInterrupt(f"go on with: nca-fast {command} --out {shlex.quote(str(out))} --resume") from None
        raise


def _print_result(result: TrainingResult | VAEResult) -> None:
    if result.cell_steps_per_second:
        speed = result.cell_steps_per_second / 1e6
        print(f"{result.iterations} iterations, {result.seconds:.0f} s, {speed:.1f} million cell-steps/s in training")
    _print_files(result.files)


def _print_files(paths: Sequence[Path]) -> None:
    width = max((len(str(path)) for path in paths), default=0)
    for path in paths:
        print(f"{path!s:<{width}}  {path.stat().st_size / 1024:9.1f} KB")


COMMANDS = {"texture": Texture, "style": Style, "clip": Clip, "render": Render, "apply": Apply}
COMMANDS |= {"vae": Vae, "vae-fuse": VaeFuse, "vae-repair": VaeRepair, "vae-outpaint": VaeOutpaint, "grow": Grow}
CONFIGS = {
    "texture": TextureConfig,
    "style": StyleConfig,
    "clip": ClipConfig,
    "vae": VAEConfig,
    "grow": GrowingConfig,
}  # of the commands that train, and can resume


def _parse(arguments: Sequence[str]) -> Texture | Style | Clip | Render | Apply:
    """The command that the arguments ask for; tyro prints help and errors, and exits."""
    chosen = arguments[0] if arguments else None
    subcommands = []
    for name, command in COMMANDS.items():
        # The list of commands shows the first line of each; the help of a command shows all of it.
        options = {} if name == chosen else {"description": command.__doc__.splitlines()[0]}
        begun_with = _begun_with(arguments) if name == chosen and name in CONFIGS else None
        if begun_with is not None:
            options["default"] = begun_with
        subcommands.append(Annotated[command, tyro.conf.subcommand(name, **options)])
    return tyro.cli(
        Union[tuple(subcommands)],  # noqa: UP007 (| has no form for a list)
        args=list(arguments) or ["--help"],
        prog="nca-fast",
        description=DESCRIPTION,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )


def _begun_with(arguments: Sequence[str]) -> Texture | Style | Clip | None:
    """The defaults of the options that are not typed: those of the run to resume, or of a recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--recipe")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # for example --out without a value, which tyro will say better
        return None
    if known.out is None:
        return None
    if not known.resume or not (known.out / run_folder.TRAINING_FILE).exists():
        return Clip(out=known.out, config=RECIPES[known.recipe]) if known.recipe in RECIPES else None
    values = checkpoint.load_metadata(known.out / run_folder.TRAINING_FILE)["config"]
    config = run_folder.stored_config(CONFIGS[arguments[0]], values, known.out)
    return COMMANDS[arguments[0]](out=known.out, config=config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the name of the program; None takes those of the process.

    Returns:
        The exit code: 0, 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["vae"] and f"vae-{''.join(arguments[1:2])}" in COMMANDS:
        arguments = [f"vae-{arguments[1]}", *arguments[2:]]
    if arguments == ["--version"]:
        print(f"nca-fast {nca_fast.__version__}")
        return 0
    who = "nca-fast"
    try:
        with distributed.process_group():
            who = f"nca-fast, process {distributed.rank()}" if distributed.rank() else who
            command = _parse(arguments)
            with contextlib.redirect_stdout(io.StringIO()) if distributed.rank() else contextlib.nullcontext():
                command.run(shlex.join(["nca-fast", *arguments]))
    except KeyboardInterrupt as interrupt:
        print(f"{who}: interrupted{f'; {interrupt}' if interrupt.args else ''}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"{who}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    return " ".join(text.split())
