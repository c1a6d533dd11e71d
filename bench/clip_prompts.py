"""Does `nca-fast clip PROMPT` grow what the prompt says? Measured without CLIP. `python -m bench.clip_prompts`

Each prompt is trained with the defaults and the small CLIP model, on one thread. Of the canvas that the automaton then
grows from its start state, two things are measured: the dominant hue, and the spectrum of its 2-D Fourier transform:
how its power spreads over directions, and the period (in cells) around which most of it lies. What a prompt promises of
these is written beside it here. Writes bench/results/clip_prompts.json and the pictures, clip_prompts.png.
"""

import argparse
import colorsys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bench.harness import RESULTS, header, write_result
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import to_uint8
from nca_fast.rendering.render import render
from nca_fast.systems.clip import Clip, ClipSources
from nca_fast.systems.clip_settings import ClipConfig
from nca_fast.training.session import run_training

HUES = {"red": 0, "orange": 30, "yellow": 56, "green": 120, "cyan": 180, "blue": 226, "purple": 278, "pink": 330}
HUE_TOLERANCE = 22  # degrees
ANGLE_TOLERANCE = 20  # degrees
LEAST_CONTRAST = 0.08  # less is one colour, whatever its spectrum; training itself asks for no more than 0.06
# One thread, to compare machines; a run in a temporary folder needs no film and no checkpoint to be resumed from.
CONFIG = replace(ClipConfig(), threads=1, video_steps=0, checkpoint_seconds=1e9)
LINES = {"horizontal": (0,), "vertical": (90,), "diagonal": (45, 135)}  # directions of the lines themselves


@dataclass(frozen=True)
class Promise:
    """A prompt and what must be seen in its picture.

    Args:
        prompt: The text.
        hues: These make up most of what is coloured, each a tenth of it or more; empty: no hue (black, white and grey).
        lines: Direction of the lines: horizontal, vertical, diagonal, any (but one); None: there must be none.
        periods: Least and greatest period, in cells.
        share: Least share of the power in lines of that direction. Waves have slopes, so less.
    """

    prompt: str
    hues: tuple[str, ...]
    lines: str | None
    periods: tuple[float, float] = (3, 32)
    share: float = 0.6


PROMISES = (
    Promise("thin blue horizontal stripes", ("blue",), "horizontal", (3, 10)),
    Promise("thick red vertical stripes", ("red",), "vertical", (10, 32)),
    Promise("thin purple and yellow diagonal stripes", ("purple", "yellow"), "diagonal", (3, 10)),
    Promise("black and white zebra", (), "any"),
    Promise("large green dots on a white background", ("green",), None, (10, 32)),
    Promise("small yellow and black checks", ("yellow",), None, (4, 14)),
    Promise("red brick wall", ("red",), None),
    Promise("orange leopard fur", ("orange",), None),
    Promise("cyan rings on black", ("cyan",), None),
    Promise("horizontal green waves", ("green",), "horizontal", share=0.15),
    Promise("pink maze on white", ("pink",), None),
    Promise("blue honeycomb", ("blue",), None),
)


@dataclass(frozen=True)
class Seen:
    """What was measured of a picture.

    Args:
        hue: Dominant hue in degrees: the fullest window of a histogram weighted by chroma.
        hues: Share of all chroma that lies within HUE_TOLERANCE of each named hue.
        chroma: Mean of max(r, g, b) - min(r, g, b) over the cells.
        contrast: Standard deviation of the three colours, root mean square.
        shares: Share of the power in lines of each direction, ANGLE_TOLERANCE to both sides. (0.22 where there is no
            direction; diagonal counts both diagonals: 0.44.)
        parallel: 1 when all lines run in one direction, 0 when no direction stands out.
        period: Cells; the median of the power over periods.
    """

    hue: float
    hues: dict[str, float]
    chroma: float
    contrast: float
    shares: dict[str, float]
    parallel: float
    period: float


def measure(rgb: Tensor) -> Seen:
    """Measures a picture of a torus. [3, H, W] in [0, 1], square."""
    chroma = rgb.amax(0) - rgb.amin(0)
    hues = torch.tensor([colorsys.rgb_to_hsv(*pixel)[0] * 360 for pixel in rgb.flatten(1).T.tolist()])
    histogram = torch.zeros(360).index_add_(0, hues.long() % 360, chroma.flatten())
    doubled = torch.cat([histogram, histogram])
    windows = doubled.unfold(0, 2 * HUE_TOLERANCE + 1, 1).sum(1)[:360]
    start = int(windows.argmax())
    # The mean within the window, which the edge of a broad peak does not move.
    degrees = torch.arange(start, start + 2 * HUE_TOLERANCE + 1)
    weights = doubled[degrees]
    hue = float((degrees * weights).sum() / weights.sum().clamp(min=1e-9)) % 360

    degrees = torch.arange(360)
    share = histogram / histogram.sum().clamp(min=1e-9)
    named = {name: float(share[_off(degrees, at, 360) <= HUE_TOLERANCE].sum()) for name, at in HUES.items()}

    grey = rgb - rgb.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(grey).abs().square().sum(0)
    side = rgb.shape[1]
    rows, columns = torch.meshgrid(torch.fft.fftfreq(side), torch.fft.fftfreq(side), indexing="ij")
    frequency = torch.hypot(rows, columns)
    power = torch.where((frequency > 1 / 40) & (frequency < 0.34), power, 0)  # neither shading nor single cells
    total = power.sum().clamp(min=1e-9)
    # A line runs across its wave: waves along the rows' axis make horizontal lines.
    direction = (torch.rad2deg(torch.atan2(rows, columns)) + 90) % 180
    shares = {}
    for name, angles in LINES.items():
        off = torch.stack([_off(direction, angle, 180) for angle in angles]).amin(0)
        shares[name] = round(float(power[off <= ANGLE_TOLERANCE].sum() / total), 3)
    parallel = float((power * torch.exp(2j * torch.deg2rad(direction))).sum().abs() / total)
    order = frequency.flatten().argsort()
    middle = int(torch.searchsorted(power.flatten()[order].cumsum(0), total / 2))
    middle = min(middle, len(order) - 1)  # a picture of one colour has no power
    period = 1 / float(frequency.flatten()[order[middle]].clamp(min=1e-9))
    return Seen(
        hue=round(hue, 1),
        hues={name: round(value, 3) for name, value in named.items() if value >= 0.05},
        chroma=round(float(chroma.mean()), 3),
        contrast=round(float(rgb.var((1, 2)).mean().sqrt()), 3),
        shares=shares,
        parallel=round(parallel, 3),
        period=round(period, 1),
    )


def _off(angles: Tensor, wanted: float, turn: int) -> Tensor:
    """How far angles are from the wanted one, in degrees; directions of lines repeat after half a turn."""
    return ((angles - wanted + turn / 2) % turn - turn / 2).abs()


def kept(promise: Promise, seen: Seen) -> dict[str, bool]:
    """Which parts of a promise a picture keeps."""
    if promise.hues:
        found = [seen.hues.get(name, 0.0) for name in promise.hues]
        hue = seen.chroma >= 0.05 and min(found) >= 0.1 and sum(found) >= 0.5
    else:
        hue = seen.chroma < 0.12 and seen.contrast > 0.2
    if promise.lines == "any":
        lines = seen.parallel >= 0.4
    elif promise.lines:
        across = {"horizontal": "vertical", "vertical": "horizontal"}.get(promise.lines)
        lines = seen.shares[promise.lines] >= max(promise.share, 3 * seen.shares.get(across, 0.0))
    else:
        lines = seen.parallel < 0.7
    period = promise.periods[0] <= seen.period <= promise.periods[1]
    return {"hue": hue, "lines": lines, "period": period, "pattern": seen.contrast >= LEAST_CONTRAST}


def run(promise: Promise, config: ClipConfig) -> tuple[dict, Image.Image]:
    """Trains one prompt and measures what it grew."""
    with tempfile.TemporaryDirectory() as folder:
        cpu = time.process_time()
        result = run_training(Clip, ClipSources((promise.prompt,)), Path(folder) / "run", config, progress=False)
        cpu = time.process_time() - cpu
    size = 2 * config.image_size
    state = render(Scene(result.model, size, size, config.picture_steps, seed=1))
    picture = result.model.to_rgb(state)[0].nan_to_num()
    seen = measure(picture)
    promised = kept(promise, seen)
    record = {"prompt": promise.prompt, "kept": promised, "seen": asdict(seen), "promised": asdict(promise)}
    record |= {"iterations": result.iterations, "wall_seconds": round(result.seconds, 1), "cpu_seconds": round(cpu, 1)}
    return record, Image.fromarray(to_uint8(picture))


def contact_sheet(cells: list[tuple[str, Image.Image]], columns: int = 4) -> Image.Image:
    """Pictures with a line of text above each."""
    zoom, label, gap = 2, 16, 6
    side = cells[0][1].width * zoom
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (side + gap), rows * (side + label + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (text, picture) in enumerate(cells):
        left, top = index % columns * (side + gap), index // columns * (side + label + gap)
        draw.text((left + 2, top + 2), text, fill="black")
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top + label))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=ClipConfig.iterations)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of prompts, from 0; none: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for clip_prompts.json and clip_prompts.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(CONFIG, iterations=arguments.iterations)
    records, cells = [], []
    for index, promise in enumerate(PROMISES):
        if arguments.only and index not in arguments.only:
            continue
        record, picture = run(promise, config)
        broken = [name for name, value in record["kept"].items() if not value]
        cells.append((promise.prompt + (f" (not: {', '.join(broken)})" if broken else ""), picture))
        records.append(record)
        print(promise.prompt, record["kept"], record["seen"], f"{record['wall_seconds']} s", flush=True)
        whole = sum(all(record["kept"].values()) for record in records)
        result = {"header": header(), "kept_in_all": whole, "prompts": len(records), "settings": asdict(config)}
        arguments.out.mkdir(parents=True, exist_ok=True)
        contact_sheet(cells).save(arguments.out / "clip_prompts.png", optimize=True)
        write_result(arguments.out / "clip_prompts.json", result | {"runs": records})


if __name__ == "__main__":
    main()
