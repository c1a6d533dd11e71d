"""One training of the held set, and what is measured of it; a job runs in a process of its own, on one thread.

The budget is CPU seconds of the training itself: its clock is the process's, so a busy machine changes little.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench.clip_prompts import kept, measure
from bench.held_set.sentences import SENTENCES
from bench.held_set.sprites import SPRITES, sprite
from bench.held_set.textures import CONTENT, PHOTOGRAPHS, STYLES, TEXTURES
from nca_fast import checkpoint
from nca_fast.commands.measure import as_learned
from nca_fast.media.images import image_grid, load_image, save_image
from nca_fast.nca import NCA
from nca_fast.scoring.content import content_kept
from nca_fast.scoring.score import Score, score
from nca_fast.systems.clip import Clip, ClipSources
from nca_fast.systems.growing import Growing, GrowingSources, errors, on_white, regrowth, wound
from nca_fast.systems.style import Style, StyleSources
from nca_fast.systems.texture import Texture, TextureSources
from nca_fast.systems.vae.system import VAE, VAESources
from nca_fast.training import stopwatch
from nca_fast.training.content import shrunk
from nca_fast.training.endurance import FAR
from nca_fast.training.run_folder import TRAINING_FILE
from nca_fast.training.session import TrainingResult, run_training

KINDS = {
    "textures": tuple(TEXTURES),
    "styles": tuple(STYLES),
    "sprites": tuple(SPRITES),
    "sentences": tuple(promise.prompt for promise in SENTENCES),
    "pictures": ("digits", "faces"),
}
SYSTEMS = {"textures": Texture, "styles": Style, "sprites": Growing, "sentences": Clip, "pictures": VAE}
ENDLESS = 1_000_000  # iterations; the time limit ends the training, and all that happens in shares of it
STATE_LIMIT = 5.0  # beyond it a state has run away
CHECK_SIDE, CHECK_STEPS, CHECK_EVERY = 256, 512, 32  # cells and steps of the check for that
PHOTO_SIDE = 256  # pixels
LONG = 2000  # steps after which a sprite should still be what it was
SCORED_SEEDS = 3


@dataclass(frozen=True)
class Asked:
    """How a job is done.

    Args:
        cpu_seconds: Budget of the training.
        seeds: Rollouts that are watched for running away, and in which sprites grow.
        settings: Settings that differ from the defaults.
        weights: VGG-16's, for one more measure; None without.
        pairs: Photographs that each style redraws.
    """

    cpu_seconds: float
    seeds: int
    settings: dict[str, Any]
    weights: str | None = None
    pairs: int = len(PHOTOGRAPHS)


@contextlib.contextmanager
def cpu_clock() -> Iterator[None]:
    """Lets the training loop count CPU seconds of this process where it would count seconds."""
    clock, stopwatch.time = stopwatch.time, SimpleNamespace(perf_counter=time.process_time)
    try:
        yield
    finally:
        stopwatch.time = clock


def do(kind: str, name: str, folder: Path, asked: Asked) -> dict:
    """Trains and measures one thing; its picture goes to `folder`/picture.png. Returns the row, JSON-able."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    row = {"kind": kind, "name": name}
    begin, begin_cpu = time.perf_counter(), time.process_time()
    measured, picture = MEASURES[kind](name, folder, asked)
    row |= measured
    row |= {"wall_seconds": round(time.perf_counter() - begin), "cpu_seconds": round(time.process_time() - begin_cpu)}
    save_image(picture, folder / "picture.png")
    (folder / "run" / TRAINING_FILE).unlink(missing_ok=True)  # tens of megabytes
    return row


def _train(
    kind: str, sources: Any, folder: Path, asked: Asked, **settings
) -> tuple[TrainingResult, dict, SimpleNamespace]:
    """Trains within the budget (drawing the end is not in it): the result, what a row says of it, and the settings that
    it had in the end."""
    system = SYSTEMS[kind]
    config = system.Config(**(settings | {"threads": 1, "checkpoint_seconds": 1e9} | asked.settings))
    config = replace(config, minutes=asked.cpu_seconds / 60, iterations=ENDLESS)
    with cpu_clock():
        result = run_training(system, sources, folder / "run", config, progress=False)
    saved = checkpoint.load_metadata(folder / "run" / TRAINING_FILE)
    row = {"iterations": result.iterations, "training_cpu_seconds": round(saved["seconds"], 1)}  # by the loop's clock
    return result, row, SimpleNamespace(**saved["config"])


def _flat(found: Score) -> dict:
    """The numbers of a score that a table shows."""
    plain = found.as_json()
    row = {key: plain["total"][key] for key in ("score", "error", "says")}
    row |= {"times": plain["total"]["distance"], "times_of_spectrum_only": plain["total"]["phase"]}
    row |= {"seam": plain["seam"], "differences": plain["differences"]}
    return row | {"measures": {name: [m["score"], m["error"], m["says"]] for name, m in plain["measures"].items()}}


@torch.no_grad()
def watch(nca: NCA, image: Tensor | None, seeds: int, at: int) -> tuple[list[Tensor], int, float]:
    """Rolls an automaton out for CHECK_STEPS with several seeds.

    Args:
        nca: The automaton.
        image: What it starts from, if from a picture; else the canvas is CHECK_SIDE x CHECK_SIDE.
        seeds: How many.
        at: Steps after which it is drawn.

    Returns:
        A drawing for each of the first seeds, how many ran away (and did not come back), and the largest absolute value
        of all.
    """
    height, width = (CHECK_SIDE, CHECK_SIDE) if image is None else image.shape[1:]
    stops = sorted({at, *range(CHECK_EVERY, CHECK_STEPS + 1, CHECK_EVERY)})
    drawings, away, largest = [], 0, 0.0
    for seed in range(seeds):
        state, done, worst = nca.initial_state(1, height, width, seed=seed, image=image), 0, 0.0
        for stop in stops:
            state = nca(state, stop - done, seed=seed, first_step=done)
            done = stop
            value = float(state.abs().nan_to_num(float("inf")).amax())
            worst = max(worst, value)
            if stop == at and seed < SCORED_SEEDS:
                drawings.append(nca.to_rgb(state)[0].nan_to_num())
            if value > FAR * STATE_LIMIT and stop >= at:
                break
        away += value > STATE_LIMIT
        largest = max(largest, worst)
    return drawings, away, min(largest, 1e30)


def texture(name: str, folder: Path, asked: Asked) -> tuple[dict, Tensor]:
    """Learns a texture; 0 to 1 is the score of three canvases."""
    original = TEXTURES[name]()
    save_image(original, folder / "original.png")
    result, row, config = _train("textures", TextureSources(str(folder / "original.png")), folder, asked, video_steps=0)
    wanted = as_learned(original, config.image_size, config.image_crop)
    drawings, away, largest = watch(result.model, None, asked.seeds, config.picture_steps)
    row |= _flat(score(drawings, wanted, weights=asked.weights))
    row |= {"run_away": away, "of": asked.seeds, "largest": largest}
    row |= {"shrink": original.shape[2] / wanted.shape[2], "shown_steps": config.picture_steps}
    return row, _beside(wanted, drawings[0])


def style(name: str, folder: Path, asked: Asked) -> tuple[dict, Tensor]:
    """Learns a style, and redraws photographs that it never saw; of each the style's score and what is kept.

    Fewer than four of them are others for every style, so that each photograph is redrawn equally often.
    """
    original = STYLES[name]()
    save_image(original, folder / "original.png")
    sources = StyleSources(str(folder / "original.png"), CONTENT)
    result, row, config = _train("styles", sources, folder, asked, video_steps=0)
    wanted, pairs, shown, away, largest = as_learned(original, config.style_size), {}, [], 0, 0.0
    first = list(STYLES).index(name)
    for number in range(first, first + asked.pairs):
        photo, read = list(PHOTOGRAPHS.items())[number % len(PHOTOGRAPHS)]
        image = shrunk(read(), PHOTO_SIDE)
        drawings, more, worst = watch(result.model, image, max(1, asked.seeds // 4), config.picture_steps)
        away, largest = away + more, max(largest, worst)
        found = _flat(score(drawings[:1], wanted, weights=asked.weights))
        untouched = score([image], wanted).total
        pairs[photo] = {**found, "content_kept": content_kept(drawings[0], image), "photo_score": untouched.score}
        shown.append(_fitted(drawings[0], PHOTO_SIDE))
    row |= {"pairs": pairs, "run_away": away, "of": len(pairs) * max(1, asked.seeds // 4)}
    for key in ("score", "times", "content_kept"):
        values = [pair[key] for pair in pairs.values()]
        row[key] = None if None in values else fmean(values)
    row |= {"says": all(pair["says"] for pair in pairs.values()), "largest": largest}
    return row, image_grid([_fitted(wanted, PHOTO_SIDE), *shown], 5, 4)


def growing(name: str, folder: Path, asked: Asked) -> tuple[dict, Tensor]:
    """Learns a sprite of 40 pixels: its error after growing, after damage and regrowth, and after 2,000 steps."""
    file = folder / "original.png"
    sprite(name).save(file)
    result, row, _ = _train("sprites", GrowingSources(str(file)), folder, asked, image_size=40, video_steps=4)
    nca, target = result.model, checkpoint.load(folder / "run" / TRAINING_FILE)[0]["target"]
    left = wound(*target.shape[1:])
    mended = [regrowth(nca, target, left, seed=seed) for seed in range(asked.seeds)]
    with torch.no_grad():
        late = nca(nca.initial_state(asked.seeds, *target.shape[1:]), LONG, seed=asked.seeds)
    late_errors = errors(late, target).nan_to_num(1e30).clamp(max=1e30)
    row |= {
        "grown": fmean(m.before for m in mended),
        "regrown": fmean(m.after for m in mended),
        "after_2000": float(late_errors.mean()),
        # It fell apart, overgrew or died: a fault that the picture of the end does not show.
        "run_away": int((late_errors > 4 * max(0.002, fmean(m.before for m in mended))).sum()),
        "of": asked.seeds,
        "largest": float(late.abs().nan_to_num(1e30).amax().clamp(max=1e30)),
    }
    drawn = [on_white(target), *(nca.to_rgb(state)[0].nan_to_num() for state in mended[0].states)]
    drawn.append(nca.to_rgb(late[:1])[0].nan_to_num())
    return row, image_grid(drawn, 5, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)


def sentence(name: str, folder: Path, asked: Asked) -> tuple[dict, Tensor]:
    """Learns what a sentence says; whether hue, direction, period and contrast are what it says."""
    promise = next(promise for promise in SENTENCES if promise.prompt == name)
    result, row, config = _train("sentences", ClipSources((name,)), folder, asked, video_steps=0)
    drawings, away, largest = watch(result.model, None, asked.seeds, config.picture_steps)
    side = 2 * config.image_size
    seen = measure(drawings[0][:, :side, :side])
    fulfilled = kept(promise, seen)
    row |= {"kept": all(fulfilled.values()), "parts": fulfilled, "hues": seen.hues}
    row |= {"period": seen.period, "run_away": away, "of": asked.seeds, "largest": largest}
    return row, drawings[0][:, :side, :side]


def vae(name: str, folder: Path, asked: Asked) -> tuple[dict, Tensor]:
    """Learns a set of pictures; the error of test pictures, and as a share of that of the mean picture."""
    result, row, _ = _train("pictures", VAESources(name), folder, asked)
    test, mean = result.figures["test_error"], result.figures["mean_error"]
    row |= {"test_error": test, "of_the_mean_picture": test / mean}
    return row, load_image(folder / "run" / "reconstructions.png")


MEASURES = {"textures": texture, "styles": style, "sprites": growing, "sentences": sentence, "pictures": vae}


def _fitted(picture: Tensor, side: int) -> Tensor:
    """A picture laid in the middle of a white square, repeated where it is much smaller. [3, side, side]"""
    whole = picture.new_ones(3, side, side)
    height, width = (min(side, length) for length in picture.shape[1:])
    top, left = (side - height) // 2, (side - width) // 2
    whole[:, top : top + height, left : left + width] = picture[:, :height, :width]
    return whole


def _beside(wanted: Tensor, drawn: Tensor) -> Tensor:
    return image_grid([_fitted(wanted, CHECK_SIDE), _fitted(drawn, CHECK_SIDE)], 2, 4)
