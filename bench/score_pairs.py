"""Does the score see what eyes see? Pairs of pictures that were judged by eye. `python -m bench.score_pairs`

Each pair is two pictures that shall be what one original is; which is better was judged on the sheet without numbers
(`--blind`, which does name what was done to them), before this script computed a score. But the constants of the score
had been chosen on such changes of brick, gravel and coins, whose scores were known then; the other originals are new.
Grown pictures come from trainings of this script with fixed iterations and
seeds, which it keeps in --runs; the others are parts of the original, changed. Writes bench/results/score_pairs.json
and the sheet, score_pairs.jpg. `--weights F` adds what VGG-16's held-out layers say.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from bench.harness import RESULTS, header, write_result
from bench.held_set.textures import TEXTURES, circles, cobbles, leaves, weave
from nca_fast.canvas.scene import Scene
from nca_fast.commands.measure import shrunk
from nca_fast.files import MODEL_FILE
from nca_fast.media.images import load_image, save_image, to_uint8
from nca_fast.nca import NCA
from nca_fast.rendering.render import render
from nca_fast.scoring.score import score
from nca_fast.scoring.spectrum import phase_randomised
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

SIDE = 128  # pixels of what is shown and grown
RUNS = Path("runs/score_pairs")


@dataclass(frozen=True)
class Original:
    """An original and how many of its pixels are one of the pictures'."""

    read: Callable[[], Tensor]
    shrink: float


ORIGINALS = {
    "brick": Original(lambda: load_image("skimage:brick"), 4),
    "gravel": Original(lambda: load_image("skimage:gravel"), 4),
    "grass": Original(lambda: load_image("skimage:grass"), 4),
    "tissue": Original(lambda: load_image("skimage:immunohistochemistry"), 4),
    "weave": Original(weave, 2),
    "circles": Original(circles, 2),
    "leaves": Original(leaves, 1.5),
    "cobbles": Original(cobbles, 2),
    "stars": Original(TEXTURES["stars"], 3),
}


@dataclass(frozen=True)
class Pair:
    """Two pictures of an original, the better one first, and why."""

    original: str
    better: str
    worse: str
    why: str


@cache
def original(name: str) -> Tensor:
    """The original at the scale of the pictures."""
    return shrunk(ORIGINALS[name].read(), ORIGINALS[name].shrink)


def grown(name: str, iterations: int, seed: int, factor: float = 1) -> Tensor:
    """What an automaton grows that was trained on the middle of an original with the defaults; its last layer is
    multiplied by a factor, beyond which it explodes."""
    folder = RUNS / f"{name}-{iterations}-{seed}"
    if not (folder / MODEL_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        picture, crop = folder / "original.png", round(64 * ORIGINALS[name].shrink)
        save_image(ORIGINALS[name].read(), picture)
        config = TextureConfig(
            image_crop=crop,
            image_size=64,
            iterations=iterations,
            features="random",  # those that the pairs were judged with
            seed=seed,
            video_steps=0,
            threads=1,
        )
        run_training(Texture, TextureSources(str(picture)), folder, config, resume=True)
    nca = NCA.from_pretrained(folder)
    with torch.no_grad():
        nca.layers[-1].weight *= factor
    return nca.to_rgb(render(Scene(nca, 2 * SIDE, 2 * SIDE, 256)))[0].nan_to_num()


def blurred(picture: Tensor, pixels: float) -> Tensor:
    """Smoothed by a Gaussian of that deviation."""
    kernel = torch.exp(-0.5 * (torch.arange(-6, 7) / pixels).square())
    kernel = kernel / kernel.sum()
    padded = F.pad(picture[:, None], (6,) * 4, mode="reflect")
    return F.conv2d(padded, (kernel[:, None] * kernel)[None, None])[:, 0]


def noisy(picture: Tensor, deviation: float) -> Tensor:
    """With noise in every colour of every pixel."""
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return (picture + deviation * noise).clamp(0, 1)


def shuffled(picture: Tensor, side: int) -> Tensor:
    """Its squares of that side in random order."""
    rows, columns = (length // side for length in picture.shape[1:])
    tiles = picture[:, : rows * side, : columns * side].reshape(3, rows, side, columns, side)
    tiles = tiles.permute(1, 3, 0, 2, 4).flatten(0, 1)
    tiles = tiles[torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))]
    return tiles.reshape(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)


def enlarged(picture: Tensor, times: float) -> Tensor:
    """The middle of it, so many times larger."""
    height, width = picture.shape[1:]
    large = F.interpolate(picture[None], scale_factor=times, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (large.shape[1] - height) // 2, (large.shape[2] - width) // 2
    return large[:, top : top + height, left : left + width]


def tinted(picture: Tensor, by: float) -> Tensor:
    """Redder and less blue."""
    return (picture + torch.tensor([by, 0, -by])[:, None, None]).clamp(0, 1)


def picture(name: str, how: str) -> Tensor:
    """Makes a picture of an original.

    Args:
        name: Of the original.
        how: `real` (its left half, mirrored), `grown ITERATIONS SEED`, `exploded ITERATIONS SEED`, `phase`,
            `blurred PIXELS`, `noisy DEVIATION`, `shuffled SIDE`, `enlarged TIMES`, `tinted BY`, `turned` (by 90
            degrees), `upside-down`.
    """
    whole, (kind, *values) = original(name), how.split()
    if kind in ("grown", "exploded"):
        return grown(name, *map(int, values), factor=1 if kind == "grown" else 3)
    change = {
        "real": lambda: whole.flip(2)[:, :, : whole.shape[2] // 2],
        "phase": lambda: phase_randomised(whole, 17),
        "blurred": lambda v: blurred(whole, v),
        "noisy": lambda v: noisy(whole, v),
        "shuffled": lambda v: shuffled(whole, int(v)),
        "enlarged": lambda v: enlarged(whole, v),
        "tinted": lambda v: tinted(whole, v),
        "turned": lambda: whole.rot90(1, (1, 2)),
        "upside-down": lambda: whole.flip(1),
    }[kind]
    return change(*map(float, values)).contiguous()


# Judged by eye on the sheet without numbers, before this script computed them.
PAIRS = (
    Pair("brick", "grown 900 0", "grown 150 0", "bricks, if bent; the other is coloured smears"),
    Pair("brick", "grown 900 0", "phase", "bricks, if bent; the other is cloth"),
    Pair("brick", "real", "grown 900 0", "straight courses; the other's joints bend and double"),
    Pair("brick", "real", "enlarged 1.5", "bricks of the right size"),
    Pair("brick", "blurred 0.7", "blurred 1.5", "sharper"),
    Pair("brick", "blurred 1.5", "phase", "still bricks, out of focus; the other is cloth"),
    Pair("brick", "noisy 0.03", "noisy 0.1", "less noise"),
    Pair("brick", "noisy 0.03", "phase", "bricks in a little noise; the other is cloth"),
    Pair("brick", "shuffled 32", "shuffled 8", "whole bricks; the other is crumbs of joints"),
    Pair("brick", "upside-down", "turned", "bricks stand; in the other they lie"),
    Pair("brick", "tinted 0.02", "tinted 0.08", "nearly grey; the other is brown"),
    Pair("brick", "grown 900 0", "shuffled 8", "bricks, if bent; the other is crumbs of joints"),
    Pair("gravel", "grown 150 1", "exploded 150 1", "a mesh of the right grain, if green; the other is black"),
    Pair("gravel", "real", "grown 150 1", "grey stones; the other is a green mesh"),
    Pair("gravel", "real", "blurred 1.0", "sharper"),
    Pair("grass", "real", "noisy 0.1", "grey blades; the other is coloured noise"),
    Pair("grass", "shuffled 32", "blurred 1.0", "blades; the other is fog"),
    Pair("tissue", "real", "tinted 0.1", "white ground; the other's is yellow"),
    Pair("tissue", "noisy 0.02", "phase", "cells and glands; the other is clouds"),
    Pair("weave", "grown 300 0", "grown 60 0", "pads of both colours; the other is magenta stripes"),
    Pair("weave", "real", "grown 300 0", "squares; the other is torn pads"),
    Pair("weave", "shuffled 32", "phase", "squares with edges; the other is a blurred tartan"),
    Pair("circles", "real", "phase", "discs; the other is clouds"),
    Pair("circles", "blurred 0.7", "shuffled 8", "discs; the other is confetti"),
    Pair("leaves", "real", "enlarged 1.5", "leaves of the right size"),
    Pair("leaves", "shuffled 32", "phase", "leaves, some cut; the other has none"),
    Pair("cobbles", "grown 250 0", "phase", "lumps with edges and shadows, if flat ones; the other is clouds"),
    Pair("cobbles", "real", "grown 250 0", "stones; the other is lumps that lean"),
    Pair("stars", "noisy 0.02", "phase", "stars; the other is mist"),
)


def sheet(rows: list[dict], blind: bool) -> Image.Image:
    """The pairs, three in a row, each beside its original; the better one in the middle."""
    gap, label, across = 4, 26, 3
    step = 3 * (SIDE + gap) + 12
    page = Image.new("RGB", (across * step, -(-len(rows) // across) * (SIDE + label + gap)), "white")
    draw = ImageDraw.Draw(page)
    for index, row in enumerate(rows):
        left, top = index % across * step, index // across * (SIDE + label + gap)
        mark = "" if blind else ("  right" if row["ordered"] else "  WRONG")
        draw.text((left, top), f"{index + 1} {row['original']}{mark}", fill="black")
        shown = (("", original(row["original"])), *((how, picture(row["original"], row[how])) for how in SHOWN))
        for place, (how, rgb) in enumerate(shown):
            x = left + place * (SIDE + gap)
            if how:
                numbers = "" if blind else f" {row['times'][how]:.2f}"
                draw.text((x, top + 12), f"{row[how]}{numbers}", fill="black")
            page.paste(Image.fromarray(to_uint8(rgb[:, :SIDE, :SIDE])), (x, top + label))
    return page


SHOWN = ("better", "worse")


def measured(pair: Pair, weights: str | None) -> dict:
    """The scores of a pair."""
    row = {"original": pair.original, "better": pair.better, "worse": pair.worse, "why": pair.why}
    found = {how: scored(pair.original, row[how], weights) for how in SHOWN}
    row |= {
        "times": {how: found[how].total.distance for how in SHOWN},
        "score": {how: found[how].as_json()["total"]["score"] for how in SHOWN},
        "error": {how: found[how].as_json()["total"]["error"] for how in SHOWN},
        "says": found["better"].total.says,
        "ordered": found["better"].total.distance < found["worse"].total.distance,
    }
    measures = {name: [found[how].measures[name].distance for how in SHOWN] for name in found["better"].measures}
    row["measures"] = measures
    row["measures_ordered"] = {name: better < worse for name, (better, worse) in measures.items()}
    return row


@cache
def scored(name: str, how: str, weights: str | None):
    """The score of one picture."""
    return score([picture(name, how)], original(name), weights=weights)


def main() -> None:
    global RUNS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blind", type=Path, help="only draw the pairs without numbers, to this file")
    parser.add_argument("--weights", help="VGG-16's, for one more measure")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where trainings are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RUNS = options.runs
    if options.blind:
        rows = [{"original": p.original, "better": p.better, "worse": p.worse} for p in PAIRS]
        sheet(rows, blind=True).save(options.blind)
        return
    rows, facts = [], header()
    for index, pair in enumerate(PAIRS, 1):
        row = measured(pair, options.weights)
        rows.append(row)
        times = " for ".join(f"{row['times'][how]:.2f}" for how in SHOWN)
        said = "right" if row["ordered"] else "WRONG"
        print(f"{index:2} {said} {pair.original}: {pair.better} before {pair.worse}: {times}", flush=True)
    right = {name: sum(row["measures_ordered"].get(name, False) for row in rows) for name in rows[0]["measures"]}
    right = {"together": sum(row["ordered"] for row in rows), **right}
    print(f"of {len(rows)} pairs in the order of the eye: {right}")
    write_result(RESULTS / "score_pairs.json", {"header": facts, "pairs": len(rows), "ordered": right, "rows": rows})
    sheet(rows, blind=False).save(RESULTS / "score_pairs.jpg", quality=88)


if __name__ == "__main__":
    main()
