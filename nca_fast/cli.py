"""The command line: `nca-fast texture` learns, `nca-fast render` shows.

The options are the fields of the dataclasses here and in `training`, read by tyro. Only this module prints and exits.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Union

import tyro

import nca_fast
from nca_fast import checkpoint
from nca_fast.files import check_writable
from nca_fast.rendering.canvas import even_speed, speed_ramp
from nca_fast.rendering.show import film, picture
from nca_fast.training import run_folder
from nca_fast.training.texture import TextureConfig, train_texture

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FILMS = (".mp4", ".gif")

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
        try:
            result = train_texture(self.config, self.image, self.out, resume=self.resume, command=command)
        except KeyboardInterrupt:
            if (self.out / run_folder.TRAINING_FILE).exists():
                raise KeyboardInterrupt(
                    f"go on with: nca-fast texture --out {shlex.quote(str(self.out))} --resume"
                ) from None
            raise
        if result.cell_steps_per_second:
            speed = result.cell_steps_per_second / 1e6
            print(
                f"{result.iterations} iterations, {result.seconds:.0f} s, {speed:.1f} million cell-steps/s in training"
            )
        _print_files(result.files)
        model = shlex.quote(str(self.out / run_folder.MODEL_FILE))
        print(f"next: nca-fast render {model} --height 1024 --width 1024 --steps 300 --out big.png")


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


def _print_files(paths: Sequence[Path]) -> None:
    width = max(len(str(path)) for path in paths)
    for path in paths:
        print(f"{path!s:<{width}}  {path.stat().st_size / 1024:9.1f} KB")


def _parse(arguments: Sequence[str]) -> Texture | Render:
    """The command that the arguments ask for; tyro prints help and errors, and exits."""
    chosen = arguments[0] if arguments else None
    subcommands = []
    for name, command in (("texture", Texture), ("render", Render)):
        # The list of commands shows the first line of each; the help of a command shows all of it.
        options = {} if name == chosen else {"description": command.__doc__.splitlines()[0]}
        remembered = _remembered(arguments) if name == chosen == "texture" else None
        if remembered is not None:
            options["default"] = remembered
        subcommands.append(Annotated[command, tyro.conf.subcommand(name, **options)])
    return tyro.cli(
        Union[tuple(subcommands)],  # noqa: UP007 (| has no form for a list)
        args=list(arguments) or ["--help"],
        prog="nca-fast",
        description=DESCRIPTION,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )


def _remembered(arguments: Sequence[str]) -> Texture | None:
    """What a resumed run was begun with: the defaults of the options that are not typed again."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    try:
        known, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:  # for example --out without a value, which tyro will say better
        return None
    if not known.resume or known.out is None or not (known.out / run_folder.TRAINING_FILE).exists():
        return None
    values = checkpoint.load_metadata(known.out / run_folder.TRAINING_FILE)["config"]
    return Texture(out=known.out, config=run_folder.stored_config(TextureConfig, values, known.out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the name of the program; None takes those of the process.

    Returns:
        The exit code: 0, 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"nca-fast {nca_fast.__version__}")
        return 0
    try:
        _parse(arguments).run(shlex.join(["nca-fast", *arguments]))
    except KeyboardInterrupt as interrupt:
        print(f"nca-fast: interrupted{f'; {interrupt}' if interrupt.args else ''}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"nca-fast: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _one_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    return " ".join(text.split())
