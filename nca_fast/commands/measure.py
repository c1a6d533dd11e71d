"""What `nca-fast score` does: draws a run, or reads a picture, and measures it against its original."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from nca_fast import checkpoint, processes
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.commands import streams
from nca_fast.commands.models import open_model
from nca_fast.fields import field
from nca_fast.files import MODEL_FILE
from nca_fast.hexagons import draws_hexagons, levelled
from nca_fast.media.images import load_image
from nca_fast.nca import NCA
from nca_fast.pretrained import model_file
from nca_fast.rendering.render import render
from nca_fast.scoring.content import content_kept
from nca_fast.scoring.score import SMALLEST, Score, score
from nca_fast.scoring.spelling import reference
from nca_fast.textures import named
from nca_fast.training.run_folder import PICTURES_FILE

WORTH_MEASURING = 30  # seconds of training
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


def measured(asked: Any) -> list[Measured]:
    """Draws what is a model, and measures; of an automaton that knows several textures each.

    Args:
        asked: A `commands.score.ScoreCommand` that has been checked.
    """
    if not asked.is_run:
        pictures, original = [load_image(asked.what)], shrunk(load_image(asked.reference), asked.shrink or 1)
        with streams.waiting("measuring"):
            return [Measured(None, {}, [], score(pictures, original, weights=asked.weights))]
    path = model_file(asked.what)
    made = checkpoint.facts_of(path)
    known = {texture["name"]: texture for texture in named(made, f"'provenance' of {path}")}
    if asked.texture is not None and asked.texture not in known:
        raise ValueError(
            f"texture must be one that {path} knows, but got {asked.texture!r}: it has "
            f"{', '.join(known) or 'one alone, so leave it out'}."
        )
    if known and asked.texture is None and asked.reference is not None:
        raise ValueError(
            f"texture must say of which of {', '.join(known)} the reference is the original: --texture "
            f"{next(iter(known))}."
        )
    chosen = [None] if not known else known if asked.texture is None else [asked.texture]
    return [_measured_run(asked, path, made, name, known.get(name, {})) for name in chosen]


def _measured_run(asked: Any, path: Path, made: dict[str, Any], texture: str | None, known: dict[str, Any]) -> Measured:
    facts, pictures, original, said = _drawn(asked, path, made, texture, known)
    with streams.waiting(_of("measuring", texture)):
        return Measured(texture, facts, said, score(pictures, original, weights=asked.weights))


def _of(doing: str, texture: str | None) -> str:
    """What is being done, and with which texture of those that an automaton knows."""
    return doing if texture is None else f"{doing} {texture}"


def _drawn(
    asked: Any, path: Path, made: dict[str, Any], texture: str | None, known: dict[str, Any]
) -> tuple[dict[str, Any], list[Tensor], Tensor, list[str]]:
    """Draws a run: facts for JSON, the pictures, the original as the training saw it, and the facts in lines."""
    config, system, where = made.get("config", {}), made.get("system"), f"'config' of {path}"
    if system not in _SIDES:
        raise ValueError(
            f"{path} must come from a texture or style training to be measured, but it comes from "
            f"{system or 'none of ours'}. Measure a picture of it, with --reference."
        )
    side_name, fact = _SIDES[system]
    source = asked.reference or _followed(known.get("image", made.get(fact)), path, texture)
    side = field(config, side_name, int, where, 1)
    crop = known.get("crop") or field({"image_crop": None} | config, "image_crop", int | None, where)
    original = as_learned(load_image(source), side, crop, asked.shrink)
    steps = asked.steps or field(config, "picture_steps", int, where, 1)
    nca = open_model(NCA, path, asked.compute)
    idle = "side" if nca.start == "image" else "content"
    if getattr(asked, idle) is not None:
        raise ValueError(f"{idle} must go with a {'texture' if idle == 'side' else 'style'}, but {path} is none.")
    content = None
    if nca.start == "image":
        content = _content(asked, path)
        height, width = content.shape[1:]
    else:
        height = width = asked.side or 4 * side
    pictures, largest = [], []
    shown = streams.shows_progress() and not asked.json
    for seed in range(asked.seeds):
        scene = Scene(nca, height, width, steps, seed=seed, image=content, **asked.compute.how)
        scene = replace(scene, config=CanvasConfig(memory=asked.memory, texture=texture))
        state = render(scene, f"{_of('drawing', texture)}, {seed + 1} of {asked.seeds}" if shown else None)
        largest.append(float(state.abs().nan_to_num(float("inf")).amax()))
        drawn = nca.to_rgb(state).nan_to_num().cpu()
        pictures.append((levelled(drawn).clamp(0, 1) if draws_hexagons(nca) else drawn)[0])
    limit = field({"state_limit": 5.0} | config, "state_limit", float, where)
    away = sum(value > limit for value in largest)
    drawn = {"height": height, "width": width, "steps": steps, "seeds": list(range(asked.seeds))}
    facts = {"drawn": drawn, "reference": {"picture": source, "size": list(original.shape[1:])}, "run_away": away}
    last = f"seeds 0 to {asked.seeds - 1}" if asked.seeds > 1 else "seed 0"
    said = [
        f"{asked.what}{f', {texture}' if texture else ''}: {height} x {width} cells after {steps} steps, {last}; "
        f"the original: {source}, as the training saw it {original.shape[1]} x {original.shape[2]} pixels"
    ]
    if away:
        said.append(f"{away} of {asked.seeds} drawings RUN AWAY: some value is beyond +-{limit:g}.")
    if content is not None:
        facts["content_kept"] = sum(content_kept(picture, content) for picture in pictures) / len(pictures)
        said.append(f"content kept: {facts['content_kept']:.2f} (1 all of where things are, 0 nothing)")
    return facts, pictures, original, said


def _content(asked: Any, path: Path) -> Tensor:
    if asked.content is not None:
        return load_image(asked.content)
    file = path.parent / PICTURES_FILE
    if not file.exists():
        raise ValueError(f"content must be given, because there is no {file}: --content PICTURE.")
    return checkpoint.load(file)[0]["first"] / 255


def _followed(source: Any, path: Path, texture: str | None = None) -> str:
    """The original that a model file names, where it is no path: a file may come from anywhere, and name any other."""
    if isinstance(source, str) and source.startswith("skimage:"):
        return source
    if not isinstance(source, str):
        raise ValueError(f"reference must be given, as {path} does not name its original: --reference PICTURE.")
    raise ValueError(
        f"reference must be given, because no path that a model file names is followed. {path} names:"
        f"{reference(source, texture)}"
    )


def drawing_score(out: Path, sources: Any, seconds: float) -> Score | None:
    """Measures the picture that a training of one texture has just drawn, in some 1.5 seconds of a core.

    Args:
        out: Folder of the run.
        sources: What it learned, as its command line names it.
        seconds: How long it trained: a run of less than half a minute is a trial, and is not measured.

    Returns:
        None too for several textures, maps, hexagons, a run that goes on without naming its picture, and pictures that
        are too small.
    """
    picture = out / "texture.png"
    if seconds < WORTH_MEASURING or getattr(sources, "image", None) is None or processes.rank() or not picture.exists():
        return None
    config = checkpoint.facts_of(out / MODEL_FILE).get("config", {})
    if sources.more or sources.maps or config.get("grid") == "hex":
        return None
    original, drawn = load_image(sources.image), load_image(picture)
    original = as_learned(original, config["image_size"], config["image_crop"])
    if min(*original.shape[1:], *drawn.shape[1:]) < SMALLEST:
        return None
    return score([drawn], original)


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
