"""The command that says how good a picture or a trained automaton is."""

import json
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor
from torch.nn import functional as F

from nca_fast import checkpoint, zoo
from nca_fast.canvas.scene import CanvasConfig, Scene
from nca_fast.commands.models import open_model
from nca_fast.devices import ComputeConfig
from nca_fast.media.images import load_image
from nca_fast.nca import NCA
from nca_fast.pretrained import HUB, model_file
from nca_fast.rendering.render import render
from nca_fast.scoring.content import content_kept
from nca_fast.scoring.score import Score, score
from nca_fast.systems.swatches import named
from nca_fast.training.run_folder import PICTURES_FILE

Positional = tyro.conf.Positional
_SIDES = {"texture": ("image_size", "image"), "style": ("style_size", "style")}  # settings and facts of the original


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Args:
        texture: Which one of an automaton that knows several, or None.
        facts: For JSON: how it was drawn, from which original.
        said: The same in lines.
        score: How good it is.
    """

    texture: str | None
    facts: dict[str, Any]
    said: list[str]
    score: Score

    def lines(self) -> list[str]:
        """Says all of it in lines of a terminal."""
        return [*self.said, *self.score.lines()]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return self.facts | self.score.as_json()


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
    """Folder or model.safetensors of a texture or style training, which is drawn and measured; or a picture."""
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
    compute: Annotated[ComputeConfig, tyro.conf.arg(name="")] = field(default_factory=ComputeConfig)

    def check(self) -> None:
        """Raises ValueError for what cannot be measured."""
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

    @property
    def is_run(self) -> bool:
        """Whether a model is to be drawn."""
        if self.what.startswith((zoo.PREFIX, HUB)):
            return True
        return not self.what.startswith("skimage:") and (Path(self.what).is_dir() or self.what.endswith(".safetensors"))

    def run(self, command: str) -> None:
        """Draws what is a model, measures, and prints the result."""
        found = self.measured()
        if self.json:
            each = {one.texture: one.as_json() for one in found}
            whole = {"textures": each} if len(found) > 1 else found[0].as_json()
            print(json.dumps({"what": self.what, **whole}, indent=1))
        else:
            print("\n\n".join("\n".join(one.lines()) for one in found))
        if len(found) > 1 and not self.json:
            mean = sum(one.score.total.score for one in found) / len(found)
            print(f"\nmean score of {len(found)} textures: {mean:.2f}")

    def measured(self) -> list[Measured]:
        """Draws what is a model, and measures; of an automaton that knows several textures each."""
        self.check()
        if not self.is_run:
            pictures, original = [load_image(self.what)], shrunk(load_image(self.reference), self.shrink or 1)
            return [Measured(None, {}, [], score(pictures, original, weights=self.weights))]
        path = model_file(self.what)
        made = checkpoint.load_metadata(path).get("provenance", {})
        known = {texture["name"]: texture for texture in named(made, f"'provenance' of {path}")}
        if self.texture is not None and self.texture not in known:
            raise ValueError(
                f"texture must be one that {path} knows, but got {self.texture!r}: it has "
                f"{', '.join(known) or 'one alone, so leave it out'}."
            )
        if known and self.texture is None and self.reference is not None:
            raise ValueError(
                f"texture must say of which of {', '.join(known)} the reference is the original: --texture "
                f"{next(iter(known))}."
            )
        chosen = [None] if not known else known if self.texture is None else [self.texture]
        return [self._measured_run(path, made, name, known.get(name, {})) for name in chosen]

    def _measured_run(self, path: Path, made: dict[str, Any], texture: str | None, known: dict[str, Any]) -> Measured:
        facts, pictures, original, said = self._drawn(path, made, texture, known)
        return Measured(texture, facts, said, score(pictures, original, weights=self.weights))

    def _drawn(
        self, path: Path, made: dict[str, Any], texture: str | None, known: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Tensor], Tensor, list[str]]:
        """Draws a run: facts for JSON, the pictures, the original as the training saw it, and the facts in lines."""
        config, system = made.get("config", {}), made.get("system")
        if system not in _SIDES:
            raise ValueError(
                f"{path} must come from a texture or style training to be measured, but it comes from "
                f"{system or 'none of ours'}. Measure a picture of it, with --reference."
            )
        side_name, fact = _SIDES[system]
        source = self.reference or _followed(known.get("image", made.get(fact)), path, texture)
        crop = known.get("crop", config.get("image_crop"))
        original = as_learned(load_image(source), config.get(side_name), crop, self.shrink)
        steps = self.steps or config["picture_steps"]
        nca = open_model(NCA, path, self.compute)
        idle = "side" if nca.start == "image" else "content"
        if getattr(self, idle) is not None:
            raise ValueError(f"{idle} must go with a {'texture' if idle == 'side' else 'style'}, but {path} is none.")
        content = None
        if nca.start == "image":
            content = self._content(path)
            height, width = content.shape[1:]
        else:
            height = width = self.side or 4 * config[side_name]
        pictures, largest = [], []
        for seed in range(self.seeds):
            scene = Scene(nca, height, width, steps, seed=seed, image=content, **self.compute.how)
            state = render(replace(scene, config=CanvasConfig(texture=texture)))
            largest.append(float(state.abs().nan_to_num(float("inf")).amax()))
            pictures.append(nca.to_rgb(state)[0].nan_to_num().cpu())
        limit = config.get("state_limit", 5.0)
        away = sum(value > limit for value in largest)
        drawn = {"height": height, "width": width, "steps": steps, "seeds": list(range(self.seeds))}
        facts = {"drawn": drawn, "reference": {"picture": source, "size": list(original.shape[1:])}, "run_away": away}
        last = f"seeds 0 to {self.seeds - 1}" if self.seeds > 1 else "seed 0"
        said = [
            f"{self.what}{f', {texture}' if texture else ''}: {height} x {width} cells after {steps} steps, {last}; "
            f"the original: {source}, as the training saw it {original.shape[1]} x {original.shape[2]} pixels"
        ]
        if away:
            said.append(f"{away} of {self.seeds} drawings RUN AWAY: some value is beyond +-{limit:g}.")
        if content is not None:
            facts["content_kept"] = sum(content_kept(picture, content) for picture in pictures) / len(pictures)
            said.append(f"content kept: {facts['content_kept']:.2f} (1 all of where things are, 0 nothing)")
        return facts, pictures, original, said

    def _content(self, path: Path) -> Tensor:
        if self.content is not None:
            return load_image(self.content)
        file = path.parent / PICTURES_FILE
        if not file.exists():
            raise ValueError(f"content must be given, because there is no {file}: --content PICTURE.")
        return checkpoint.load(file)[0]["first"] / 255


def _followed(source: Any, path: Path, texture: str | None = None) -> str:
    """The original that a model file names, where it is no path: a file may come from anywhere, and name any other."""
    if isinstance(source, str) and source.startswith("skimage:"):
        return source
    if not isinstance(source, str):
        raise ValueError(f"reference must be given, because {path} does not know a file that it was learned from.")
    which = f"--texture {texture} " if texture else ""
    raise ValueError(
        f"reference must be given, because no path that a model file names is followed. {path} names: {which}"
        f"--reference {shlex.quote(source)}"
    )


def as_learned(whole: Tensor, size: int, crop: int | None = None, shrink: float | None = None) -> Tensor:
    """Shrinks an original, [3, H, W], as a training did that learned the middle `crop` of it, or all, as `size` cells.

    All of it is kept: parts that no training saw say what parts may differ by.
    """
    if shrink is None:
        shrink = max(1.0, (crop or max(whole.shape[1:])) / size)
    return shrunk(whole, shrink)


def shrunk(picture: Tensor, times: float) -> Tensor:
    """Makes a picture [3, H, W] so many times smaller."""
    if times == 1:
        return picture
    size = [max(1, round(side / times)) for side in picture.shape[1:]]
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
