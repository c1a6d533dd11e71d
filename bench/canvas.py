"""How well does a canvas do that is larger than memory?

    python -m bench.canvas                                    20 minutes alone on the machine; bench/results/canvas.json
    python -m bench.canvas --side 4096 --memory 512MiB --out canvas_small.json
    python -m bench.canvas --parts strips memory              some of it; the other parts of the file stay
    python -m bench.canvas --gigacell                         2^30 cells, 8 steps, as a pyramid; canvas_gigacell.json

The parts: `strips` renders the canvas within the memory and compares windows across the borders of its strips with an
independent computation, bit for bit; `memory` is the speed of the largest canvas that fits into memory as a whole;
`ranks` the speed of one and of two processes of one thread; `largest` which canvases a GiB holds, and what stock
PyTorch makes of the machine; `first` the time until there is a first picture. Nothing is told when a window differs.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.harness import RESULTS, header, write_result
from bench.rollout import automaton
from nca_fast.canvas.band import ring_rows
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.colony import Colony
from nca_fast.canvas.memory import free_memory
from nca_fast.canvas.plan import Reserve, make_plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.media.formats import FORMATS, write_picture
from nca_fast.profiling.parity import check_parity
from nca_fast.profiling.stock import StockNCA
from nca_fast.sizes import in_words, parse_bytes

PARTS = ("memory", "strips", "ranks", "largest", "first")
WINDOW = 48  # cells to either side of a border that are computed again
SEED = 3


def peak_memory() -> int:
    """The most resident memory that this process has had. (getrusage counts that of the process which started it.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@torch.no_grad()
def window_is_right(canvas: Canvas, row: int, column: int) -> bool:
    """Whether the cells around a place are those of a small canvas on which the same cells fire, from zeros."""
    nca, steps, height = canvas.scene.nca, canvas.scene.steps, canvas.scene.height
    half = WINDOW + steps * nca.rule.reach
    start = torch.zeros(1, nca.rule.channels, 2 * half, 2 * half)
    origin = ((row - half) % height, column - half)
    small = nca(start, steps, seed=SEED, origin=origin, canvas_height=height)[0]
    inner = slice(half - WINDOW, half + WINDOW)
    got = torch.cat([canvas.rows((row + i) % height, 1) for i in range(-WINDOW, WINDOW)], 1)
    got = got[:, :, column - WINDOW : column + WINDOW]
    want = small[:, inner, inner].to(canvas.scene.dtype).float()  # after the one pass that rounds a state of 16 bits
    return bool(torch.equal(got, want)) and bool(got.abs().max() > 0)


def measure_strips(options) -> dict:
    """The canvas within the memory, as a picture; runs in a process of its own."""
    nca, side = automaton(), options.side
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, kind = Path(folder) / f"canvas{options.picture}", FORMATS[options.picture]
        begin = time.perf_counter()
        config = CanvasConfig(memory=options.memory, state_dtype=options.state_dtype)
        scene = Scene(nca, side, side, options.steps, seed=SEED, config=config)
        reserve = Reserve(0, kind.bytes_held(side, side), kind.bytes_needed(side, side))
        with Canvas(scene, path=path, resume=False, reserve=reserve) as canvas:
            canvas.go()
            rolled = time.perf_counter()
            canvas.release()
            plan = canvas.plans[0]
            edge = WINDOW + options.steps * nca.rule.reach
            columns = [edge, side // 2, side - edge]
            borders = range(0, side, plan.strip_rows)
            seams = {f"{row}": all(window_is_right(canvas, row, column) for column in columns) for row in borders}
            checked = time.perf_counter()
            write_picture(path, side, side, canvas.pixels())
            written = time.perf_counter()
        pictures = {path.name, f"{path.stem}.html", f"{path.stem}_files"}
        left = [entry.name for entry in Path(folder).iterdir() if entry.name not in pictures]
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "side": side,
        "steps": options.steps,
        "memory": options.memory,
        "state_dtype": options.state_dtype,
        "strip_rows": plan.strip_rows,
        "steps_per_pass": plan.steps_per_pass,
        "state_in_memory": plan.in_memory,
        "cell_steps_per_second": side * side * options.steps / (rolled - begin),
        "seconds": rolled - begin,
        "seconds_of_the_picture": written - checked,
        "picture_bytes": size,
        "peak_resident_bytes": peak_memory(),
        "borders_right": seams,
        "files_left": left,
    }


def measure_memory(options) -> dict:
    """The largest canvas that is computed as a whole, at most as large as the one in strips; in its own process."""
    nca = automaton()
    side = min(
        options.side, int((free_memory() * 0.9 / Colony(Scene(nca, 1, 1, 1)).cost().cell_bytes) ** 0.5) // 64 * 64
    )
    steps = max(2, min(16, round(5e8 / side**2)))
    with Canvas(Scene(nca, side, side, steps + 1, seed=SEED)) as canvas:
        assert canvas.plans[0].whole
        canvas.go(1)  # touches all memory
        begin = time.perf_counter()
        canvas.go()
        seconds = time.perf_counter() - begin
    rate = side * side * steps / seconds
    return {"side": side, "steps": steps, "cell_steps_per_second": rate, "peak_resident_bytes": peak_memory()}


def measure_stock(options) -> dict | None:
    """One step of stock PyTorch on a canvas of that side in so much memory; None where it does not suffice."""
    stock, before = StockNCA(automaton()), peak_memory()
    now = 4096 * int(Path("/proc/self/statm").read_text().split()[0])  # address space of libraries, mostly
    resource.setrlimit(resource.RLIMIT_AS, (now + options.limit, now + options.limit))
    try:
        with torch.no_grad():
            stock(torch.zeros(1, 12, options.side, options.side))
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return None
    return {"side": options.side, "bytes_per_cell": (peak_memory() - before) / options.side**2}


def in_process(part: str, **options) -> dict | None:
    """The result of a part measured in a process of its own."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "bench.canvas", "--child", part, *words]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def command_seconds(*words: str, ranks: int | None = None) -> float:
    """Wall time of `nca-fast render`, with `ranks` of processes of one thread each."""
    start = [sys.executable, "-m", "nca_fast"]
    if ranks is not None:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        start += ["-m", "nca_fast"]
    environment = os.environ | ({} if ranks is None else {"OMP_NUM_THREADS": "1"})
    begin = time.perf_counter()
    subprocess.run([*start, "render", *words], check=True, env=environment, capture_output=True)
    return time.perf_counter() - begin


def measure_ranks(options, folder: Path) -> dict:
    """Speed of one and of two processes of one thread, from the time that more steps take."""
    side, few, many = min(options.side, 4096), 8, 24
    model, rates = str(automaton().save_pretrained(folder / "model")), {}
    for ranks in (1, 2):
        seconds = [
            command_seconds(
                *f"{model} --height {side} --width {side} --steps {steps} --out {folder / 'x.png'}".split(), ranks=ranks
            )
            for steps in (few, many)
        ]
        rates[ranks] = side * side * (many - few) / (seconds[1] - seconds[0])
    return {"side": side, "cell_steps_per_second": rates, "scaling": rates[2] / rates[1]}


def measure_first(folder: Path) -> dict:
    """Seconds from the start of the program to a picture."""
    model = str(automaton().save_pretrained(folder / "model"))
    words = f"{model} --height 256 --width 256 --steps 64 --out {folder / 'x.png'}".split()
    return {"side": 256, "steps": 64, "seconds": sorted(command_seconds(*words) for _ in range(3))[1]}


def largest_side(memory: int, fits) -> int:
    """The largest multiple of 64 that fits."""
    low, high = 1, 2**14
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(64 * middle, memory) else (low, middle)
    return 64 * low


def measure_largest(options) -> dict:
    """Sides of square canvases of 12 channels: within a GiB, and within the memory of this machine."""
    cost = Colony(Scene(automaton(), 1, 1, 1)).cost()

    def planned(**which):
        def fits(side, memory):
            try:
                plan = make_plan(cost, 12, side, side, 64, memory=memory, state_bytes=which.get("state_bytes", 4))
            except ValueError:
                return False
            if "disk" in which:
                return 48 * side * ring_rows(side, plan.halo, plan.shift) <= which["disk"]
            return plan.whole if "whole" in which else plan.in_memory

        return fits

    limit, disk = free_memory(), shutil.disk_usage(options.folder).free
    small = in_process("stock", side=1024, limit=limit)
    guess = int((limit / small["bytes_per_cell"]) ** 0.5) // 64 * 64
    reached = 0
    for side in (guess + 512, guess + 256, guess, guess - 256, guess - 512, guess - 1024):
        if in_process("stock", side=side, limit=limit) is not None:
            reached = side
            break
    return {
        "of_one_gib": {
            "never_copied": largest_side(2**30, planned(whole=True)),
            "state_in_memory": largest_side(2**30, planned()),
            "bfloat16_state_in_memory": largest_side(2**30, planned(state_bytes=2)),
        },
        "of_this_machine": {
            "bytes": limit,
            "disk_bytes": disk,
            "state_in_a_file_with_one_gib": largest_side(2**30, planned(disk=disk)),
            "never_copied": largest_side(limit, planned(whole=True)),
            "state_in_memory": largest_side(limit, planned()),
            "stock_pytorch": reached,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=16384, help="of the square canvas (default 16384)")
    parser.add_argument("--steps", type=int, default=64, help="default 64")
    parser.add_argument("--memory", default="4GiB", help="default 4GiB")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="disk for the state (default: this folder's)")
    parser.add_argument("--out", type=Path, default=RESULTS / "canvas.json", help="result file")
    parser.add_argument("--state-dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="on disk")
    parser.add_argument("--picture", choices=[".png", ".tif", ".dzi"], default=".png", help="its format (default .png)")
    parser.add_argument("--gigacell", action="store_true", help="32768 x 32768 cells, 8 steps, float16 on disk, .dzi")
    parser.add_argument("--child", choices=["strips", "memory", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.gigacell:
        options.side, options.steps, options.state_dtype, options.picture = 32768, 8, "float16", ".dzi"
        options.parts, options.out = ("memory", "strips"), RESULTS / "canvas_gigacell.json"
    if options.child:
        measure = {"strips": measure_strips, "memory": measure_memory, "stock": measure_stock}[options.child]
        print(json.dumps(measure(options)))
        return
    check_parity(automaton())
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["header"] = header() | {"free_memory": free_memory()}
    size = {name: getattr(options, name) for name in ("side", "steps", "memory", "folder", "picture")}
    size["state-dtype"] = options.state_dtype
    for part in (part for part in PARTS if part in options.parts):
        print(f"{part} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            if part in ("strips", "memory"):
                result[part] = in_process(part, **size)
            elif part == "ranks":
                result[part] = measure_ranks(options, Path(folder))
            elif part == "first":
                result[part] = measure_first(Path(folder))
            else:
                result[part] = measure_largest(options)
        print(json.dumps(result[part], indent=1), flush=True)
        if part == "strips" and not all(result[part]["borders_right"].values()):
            sys.exit("windows differ: no result is written")
        write_result(options.out, result)
    if {"strips", "memory"} <= result.keys():
        share = result["strips"]["cell_steps_per_second"] / result["memory"]["cell_steps_per_second"]
        result["share_of_the_speed_in_memory"] = share
        write_result(options.out, result)
        over = result["strips"]["peak_resident_bytes"] - parse_bytes(result["strips"]["memory"])
        print(
            f"{share:.0%} of the speed in memory; {in_words(abs(over))} {'above' if over > 0 else 'below'} the memory"
        )


if __name__ == "__main__":
    main()
