"""The command that says how good a picture or a trained automaton is."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nca_fast import zoo
from nca_fast.canvas.settings import CanvasConfig, MemoryOption
from nca_fast.compute import ComputeConfig
from nca_fast.files import TRAINING_FILE
from nca_fast.media.sources import check_picture_source
from nca_fast.pretrained import HUB, check_model

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class ScoreCommand:
    """Measure how good a picture or a trained automaton is: its distance from an original, on a scale of its own.

    For example, after `nca-fast texture skimage:brick --out runs/brick`:
        nca-fast score runs/brick
        nca-fast score runs/brick/texture.png --reference skimage:brick --shrink 4

    An automaton that knows several textures, of each or of one:
        nca-fast score runs/ground
        nca-fast score runs/ground --texture grass --reference grass.png

    0 is as good as another part of the original, 1 is a picture that has the original's spectrum and colours but
    nothing else (its phases are random). What is compared is looked at by no training: oriented waves at several
    scales, how they go together, and patterns of neighbours; beside that VGG-16's conv1_2, conv2_2 and conv3_3, where
    its weights are at hand. Where halves of the original differ from each other as much as from such a picture, as with
    many stochastic textures, there is no scale, and it says so. LPIPS, which compares place by place, and FID, which
    takes thousands of pictures, have no place here.
    """

    what: Annotated[Positional[str], tyro.conf.arg(metavar="RUN|PICTURE")]
    """A texture or style training, which is drawn and measured: its folder, its model.safetensors, or
    hf:USER/NAME; or a picture."""
    reference: Annotated[str | None, tyro.conf.arg(metavar="PICTURE")] = None
    """The original: a file or skimage:NAME, all of it. None: what the run learned from, where it is skimage:NAME."""
    texture: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """For a run that knows several textures: which one to measure. None: each, and their mean."""
    shrink: float | None = None
    """So many pixels of the original are one of the picture. None: 1, and for a run what its training made of it."""
    content: Annotated[str | None, tyro.conf.arg(metavar="PICTURE")] = None
    """For a style: the picture to redraw. None: the first one of the training."""
    steps: int | None = None
    """For a run: updates of every cell. None: as many as the training took for its own pictures (picture_steps)."""
    side: int | None = None
    """For a texture: rows and columns of the canvas. None: four times those of the training."""
    seeds: int = 3
    """For a run: so many drawings, each with its own randomness."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """File with the weights of VGG-16. None: torchvision's cache; without them it is left out."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print everything as one JSON object."""
    memory: MemoryOption = None
    """Memory that the canvas may take, such as 2GiB; what needs more is computed strip by strip. None: what is free."""
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    main: ClassVar[tuple[str, ...]] = ("reference", "texture", "content", "shrink", "seeds", "json")

    def check(self) -> None:
        """Raises ValueError for what cannot be measured."""
        CanvasConfig(memory=self.memory).check()
        for name in ("steps", "side", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, but got {value}.")
        if self.shrink is not None and not 1 <= self.shrink < float("inf"):
            raise ValueError(f"shrink must be at least 1, but got {self.shrink}.")
        if not self.is_run:
            if self.reference is None:
                raise ValueError("reference must be given for a picture: --reference PICTURE names the original.")
            given = [name for name in ("texture", "steps", "side", "content") if getattr(self, name) is not None]
            given += ["seeds"] * (self.seeds != type(self).seeds)
            if given:
                raise ValueError(
                    f"{', '.join(given)} must go with a run, but {self.what!r} is a picture: leave it out."
                )

        for option in ("reference", "content", *([] if self.is_run else ["what"])):
            if getattr(self, option) is not None:
                check_picture_source(getattr(self, option), what="the picture" if option == "what" else option)
        if self.is_run:
            check_model(self.what)
        if self.what.startswith(zoo.PREFIX):
            raise ValueError(
                f"a run must say how its original was shrunk, which {self.what} does not: nca-fast info {self.what} "
                f"has the score that it was given. Or draw it, nca-fast render {self.what} --out drawn.png, and "
                "measure drawn.png with --reference and --shrink."
            )

    @property
    def is_run(self) -> bool:
        """Whether a model is to be drawn."""
        if self.what.startswith((zoo.PREFIX, HUB)):
            return True
        return not self.what.startswith("skimage:") and (Path(self.what).is_dir() or self.what.endswith(".safetensors"))

    def run(self, command: str) -> None:
        """Draws what is a model, measures, and prints the result."""
        from nca_fast.commands.ending import finish
        from nca_fast.commands.measure import measured

        found = measured(self)
        if self.json:
            each = {one.texture: one.as_json() for one in found}
            whole = {"textures": each} if len(found) > 1 else found[0].as_json()
            print(json.dumps({"what": self.what, **whole}, indent=1))
        else:
            print("\n\n".join("\n".join(one.lines()) for one in found))
        if len(found) > 1 and not self.json:
            mean = sum(one.score.total.score for one in found) / len(found)
            print(f"\nmean score of {len(found)} textures: {mean:.2f}")
        if self.is_run and not self.json:
            finish((), then=self.then())

    def then(self) -> list[str]:
        """Proposes, for a run, to draw it, and to train it for as long again; where it cannot, to look at it."""
        from nca_fast import checkpoint
        from nca_fast.commands.ending import drawing
        from nca_fast.training.settings import length

        training = Path(self.what) / TRAINING_FILE
        if not training.exists():
            return [drawing(self.what), f"nca-fast info {shlex.quote(self.what)}"]
        made = checkpoint.load_metadata(training)
        minutes = made["config"].get("minutes")
        longer = length(2 * made["iteration"], None if minutes is None else 2 * minutes)
        return [drawing(self.what), f"nca-fast {made['system']} --out {shlex.quote(self.what)} --resume {longer}"]
