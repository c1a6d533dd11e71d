"""Hinno's comparisons as picture grids: style losses, weights of the losses, filters. `python -m bench.style_study`

Trains one automaton for each cell on pictures that come with scikit-image, in short rollouts, everything else but the
named setting at its default, and lets it restyle a picture of the training and one that it never saw. Writes
examples/style_losses.jpg, style_weights.jpg and style_filters.jpg, and bench/results/style_study.json with settings,
losses, times and the sizes of the models on disk. A run that was interrupted goes on where it stopped when it is
started again with the same --folder and --iterations.

Source of the comparisons: Hinno, "Neural Cellular Automata for style transfer", 2024.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bench.harness import RESULTS, header, write_result
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import load_image, to_uint8
from nca_fast.rendering.render import render
from nca_fast.systems.style import Style, StyleSources
from nca_fast.systems.style_settings import StyleConfig
from nca_fast.training.content import shrunk
from nca_fast.training.session import run_training

EXAMPLES = Path(__file__).parents[1] / "examples"
STYLE = "skimage:immunohistochemistry"
CONTENT = ("skimage:astronaut", "skimage:chelsea", "skimage:coffee", "skimage:rocket")
SHOWN = ("skimage:astronaut", "skimage:camera")
SIDE, LABEL, GAP = 192, 16, 4  # pixels: shown pictures at most, the text above each, the space between
ACROSS = 3  # automata in a row of a page
MODEL_BYTES = 88 * 1024
# The settings that were the defaults until 27 November 2026, which compare what those papers do, in short rollouts
# only: the style of a training, without the second half of its time, which makes it last.
BASE = StyleConfig(
    preset="style",
    style_size=128,
    features="random",
    loss="ot",
    guide_weight=0.0,
    content_weight=0.3,
    color_loss="histogram",
    learning_rate=1.5e-3,
    disturb=0.0,
    early_steps_min=4,
    early_steps_max=12,
    iterations=500,
    early_iterations=500,
    lr_milestones=(250, 400),
    picture_steps=48,
    video_steps=0,
    picture_size=64,
    threads=1,
    checkpoint_seconds=20.0,
)
LAST = 50  # iterations over which losses are averaged

LOSSES = {loss: {"loss": loss} for loss in ("ot", "w2", "gram")}
WEIGHTS = {
    f"{name} x {factor:g}": {f"{name}_weight": factor * getattr(BASE, f"{name}_weight")}
    for name in ("style", "content", "color")
    for factor in (0.1, 1.0, 10.0)
}
FILTERS = {
    "sobel": {},
    "scharr": {"filters": ("scharr",)},
    "prewitt": {"filters": ("prewitt",)},
    "sobel, scharr": {"preset": "style-two-filters"},
    "one laplacian": {"preset": "image-manipulation"},
}
GRIDS = {"style_losses": LOSSES, "style_weights": WEIGHTS, "style_filters": FILTERS}


def trained(change: dict, iterations: int, folder: Path) -> tuple[Path, StyleConfig]:
    """The folder with the finished run of these settings; trains what is missing of it."""
    config = replace(BASE, iterations=iterations, **change)
    name = " ".join(f"{key}={value}" for key, value in change.items() if value != getattr(BASE, key)) or "default"
    run = folder / name.replace("/", "-")
    run_training(Style, StyleSources(STYLE, CONTENT), run, config, resume=True)
    return run, config


def facts(run: Path, config: StyleConfig) -> dict:
    """What is known of a finished run."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = lines[-LAST:]
    size = (run / "model.safetensors").stat().st_size
    if size > MODEL_BYTES:
        raise ValueError(f"a model must have at most {MODEL_BYTES} bytes, but that in {run} has {size}.")
    nca = NCA.from_pretrained(run)
    cells = config.content_size**2
    return {
        "iterations": len(lines),
        "wall_seconds": round(sum(line["seconds"] for line in lines)),
        "loss_per_cell": {
            name: sum(line[name] for line in last) / len(last) / cells / weight
            for name in ("style", "content", "color")
            if (weight := getattr(config, f"{name}_weight")) > 0
        },
        "parameters": sum(parameter.numel() for parameter in nca.parameters()),
        "model_bytes": size,
        "settings": {key: value for key, value in asdict(config).items() if value != getattr(StyleConfig(), key)},
    }


def restyled(run: Path, config: StyleConfig, source: str) -> Tensor:
    """A picture as the automaton of a run redraws it."""
    image = shrunk(load_image(source), SIDE)
    nca = NCA.from_pretrained(run)
    return nca.to_rgb(render(Scene(nca, *image.shape[1:], config.picture_steps, image=image)))[0]


def sheet(rows: list[list[tuple[str, Tensor]]]) -> Image.Image:
    """Rows of labelled pictures."""
    step = (SIDE + GAP, SIDE + LABEL + GAP)
    page = Image.new("RGB", (max(len(row) for row in rows) * step[0], len(rows) * step[1]), "white")
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(rows):
        for x, (text, picture) in enumerate(row):
            draw.text((x * step[0] + 2, y * step[1] + 2), text, fill="black")
            page.paste(Image.fromarray(to_uint8(picture)), (x * step[0], y * step[1] + LABEL))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=BASE.iterations, help="of every training")
    parser.add_argument("--folder", type=Path, default=Path("runs/style_study"), help="where the runs are kept")
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS), help="which comparisons to make")
    options = parser.parse_args()
    torch.set_num_threads(BASE.threads)
    path = RESULTS / "style_study.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    original = [("style", shrunk(load_image(STYLE), SIDE))]
    original += [(source.removeprefix("skimage:"), shrunk(load_image(source), SIDE)) for source in SHOWN]
    for name in options.grids:
        cells, record = [], {}
        for label, change in GRIDS[name].items():
            run, config = trained(change, options.iterations, options.folder)
            record[label] = facts(run, config)
            cells += [(label, restyled(run, config, source)) for source in SHOWN]
            rows = [cells[i : i + ACROSS * len(SHOWN)] for i in range(0, len(cells), ACROSS * len(SHOWN))]
            sheet([original, *rows]).save(EXAMPLES / f"{name}.jpg", quality=90)
            result |= {"header": header(), name: record}
            write_result(path, result)
        print(f"wrote {EXAMPLES / name}.jpg; largest model {max(r['model_bytes'] for r in record.values())} bytes")


if __name__ == "__main__":
    main()
