"""Trains all of the held set and measures it. `python -m bench.held_set --minutes 1`

Each job is a process on one thread, two at a time, with a budget of 120 CPU seconds for each of --minutes (a minute of
two cores), and writes its row when it is done; the same command goes on where it was interrupted. Then, and on the way,
it writes bench/results/held_set_LABEL.json (all rows, settings, commit), .md (the table) and one sheet for each kind.

    python -m bench.held_set --minutes 1 --only textures styles
    python -m bench.held_set --minutes 4 --only textures --half 0 --set textures.features=vgg16 --label vgg --weights F
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from bench.harness import RESULTS, header, write_result
from nca_fast.files import atomic_path

ROOT = Path(__file__).parents[2]
KIND_NAMES = ("textures", "styles", "sprites", "sentences", "pictures")
COLUMNS = {
    "textures": ("iterations", "score", "error", "times", "times_of_spectrum_only", "vgg16", "run_away"),
    "styles": ("iterations", "score", "times", "content_kept", "run_away"),
    "sprites": ("iterations", "grown", "regrown", "after_2000", "run_away"),
    "sentences": ("iterations", "kept", "period", "run_away"),
    "pictures": ("iterations", "test_error", "of_the_mean_picture"),
}
SHEET_WIDTH = 1600  # pixels


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1, help="of two cores, for each training")
    parser.add_argument("--only", nargs="+", choices=KIND_NAMES, default=KIND_NAMES, help="kinds of things")
    parser.add_argument("--names", nargs="+", help="names of single things, such as coins")
    parser.add_argument("--half", type=int, choices=(0, 1), help="every second thing: the first or the other half")
    parser.add_argument("--set", nargs="+", default=[], metavar="KIND.SETTING=VALUE", help="in place of the defaults")
    parser.add_argument("--seeds", type=int, default=8, help="rollouts that are watched for running away")
    parser.add_argument("--pairs", type=int, choices=range(1, 5), default=4, help="photographs that a style redraws")
    parser.add_argument("--weights", help="VGG-16's, for one more measure")
    parser.add_argument("--label", help="of the results (default: the minutes)")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "held_set", help="where runs and rows are kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where table and sheets go")
    parser.add_argument("--job", nargs=2, metavar=("KIND", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.label = options.label or f"{options.minutes:g}m"
    options.settings = {kind: {} for kind in KIND_NAMES}
    for text in options.set:
        name, _, value = text.partition("=")
        kind, _, setting = name.partition(".")
        if kind not in KIND_NAMES or not setting or not value:
            parser.error(f"--set must be KIND.SETTING=VALUE with one of {', '.join(KIND_NAMES)}, but got {text!r}")
        try:
            options.settings[kind][setting] = json.loads(value)
        except json.JSONDecodeError:
            options.settings[kind][setting] = value
    return options


def slug(name: str) -> str:
    """A folder's name."""
    return name.replace(" ", "-")


def do_job(options: argparse.Namespace) -> None:
    """Does one job in this process, and writes its row."""
    from bench.held_set.jobs import Asked, do

    kind, name = options.job
    folder = options.runs / options.label / kind / slug(name)
    asked = Asked(120 * options.minutes, options.seeds, options.settings[kind], options.weights, options.pairs)
    row = do(kind, name, folder, asked)
    row |= {"commit": header()["commit"], "settings": asked.settings, "budget_cpu_seconds": asked.cpu_seconds}
    _write(folder / "row.json", json.dumps(row))


def jobs(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Lists what is asked for, (kind, name)."""
    from bench.held_set.jobs import KINDS

    found = []
    for kind in KIND_NAMES:
        names = KINDS[kind] if options.half is None else KINDS[kind][options.half :: 2]
        found += [(kind, n) for n in names if kind in options.only and (not options.names or n in options.names)]
    return found


def run(options: argparse.Namespace, kind: str, name: str, stop: threading.Event) -> dict | None:
    """Runs a job in a process of its own, unless its row is there; returns the row, None when it was stopped."""
    folder = options.runs / options.label / kind / slug(name)
    path = folder / "row.json"
    if path.exists():
        return json.loads(path.read_text())
    if stop.is_set():
        return None
    if (folder / "run").exists():  # what an interrupted job left
        for file in sorted((folder / "run").iterdir()):
            file.unlink()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bench.held_set", *sys.argv[1:], "--label", options.label, "--job", kind, name]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "errors.txt").open("w") as errors:
        done = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=errors, stderr=errors)
        while done.poll() is None:
            time.sleep(0.5)
            if stop.is_set():
                done.terminate()
    if stop.is_set():
        return None
    if done.returncode:  # it is tried again by the next call
        lines = (folder / "errors.txt").read_text().strip().splitlines()
        return {"kind": kind, "name": name, "failed": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(path.read_text())


def table(rows: list[dict], options: argparse.Namespace, facts: dict) -> str:
    """The rows as Markdown, a table for each kind."""
    lines = [
        f"# Held set, {options.label}: {options.minutes:g} minutes of two cores each, commit {facts['commit']}",
        "",
        f"`python -m bench.held_set {' '.join(sys.argv[1:])}` on {facts['cpu']}. score: 0 another part of the "
        "original, 1 its spectrum only; - where that is no scale. times: as far as another half of the original.",
    ]
    for kind in KIND_NAMES:
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            lines += ["", f"| {kind} | {' | '.join(COLUMNS[kind])} |", "|---" * (len(COLUMNS[kind]) + 1) + "|"]
            for row in of_kind:
                cells = [row["failed"]] if "failed" in row else [_cell(row, column) for column in COLUMNS[kind]]
                lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict, column: str) -> str:
    if column == "run_away":
        return f"{row['run_away']} of {row['of']}"
    if column in ("score", "error") and not row.get("says", True):
        return "-"
    value = row["measures"].get("vgg16", [None])[0] if column == "vgg16" else row.get(column)
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def sheet(rows: list[dict], kind: str, options: argparse.Namespace, facts: dict) -> Image.Image | None:
    """The pictures of a kind, each below what is said of it."""
    cells = []
    for row in (row for row in rows if row["kind"] == kind and "failed" not in row):
        picture = Image.open(options.runs / options.label / kind / slug(row["name"]) / "picture.png").convert("RGB")
        said = {"textures": "score", "styles": "score", "sprites": "regrown", "sentences": "kept"}.get(kind)
        text = f"{row['name']}  {said} {_cell(row, said)}" if said else row["name"]
        text += f", {row['run_away']} of {row['of']} RUN AWAY" if row.get("run_away") else ""
        cells.append((text, picture))
    if not cells:
        return None
    largest = max(picture.width for _, picture in cells)
    columns = max(1, min(len(cells), round(SHEET_WIDTH / max(largest, 400 if kind != "sentences" else 200))))
    side = min(largest, SHEET_WIDTH // columns - 6)
    cells = [(t, p.resize((side, round(p.height * side / p.width)), Image.Resampling.LANCZOS)) for t, p in cells]
    tall, rows_of = max(p.height for _, p in cells) + 22, -(-len(cells) // columns)
    page = Image.new("RGB", (columns * (side + 6), rows_of * tall + 18), "white")
    draw = ImageDraw.Draw(page)
    head = f"{kind}, {options.label}, {options.minutes:g} min of two cores each, commit {facts['commit']}"
    draw.text((2, 2), head, fill="black")
    for index, (text, picture) in enumerate(cells):
        left, top = index % columns * (side + 6), index // columns * tall + 18
        draw.text((left + 2, top + 2), text, fill="black")
        page.paste(picture, (left, top + 16))
    return page


def write(rows: list[dict], options: argparse.Namespace) -> str:
    """Writes results, table and sheets; returns the table."""
    facts = header()
    commits = sorted({row["commit"] for row in rows if "commit" in row})
    facts["commit"] = "+".join(commits) or facts["commit"]
    options.results.mkdir(parents=True, exist_ok=True)
    name = options.results / f"held_set_{options.label}"
    text = table(rows, options, facts)
    write_result(name.with_name(f"{name.name}.json"), {"header": facts, "minutes": options.minutes, "rows": rows})
    _write(name.with_name(f"{name.name}.md"), text)
    for kind in KIND_NAMES:
        page = sheet(rows, kind, options, facts)
        if page is not None:
            with atomic_path(name.with_name(f"{name.name}_{kind}.jpg")) as temporary:
                page.save(temporary, quality=88)
    return text


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    if options.job:
        do_job(options)
        return
    asked, rows, stop = jobs(options), {}, threading.Event()
    pool = ThreadPoolExecutor(options.workers)
    running = {job: pool.submit(run, options, *job, stop) for job in asked}
    try:
        for job, future in running.items():
            row = future.result()
            rows[job] = row
            said = {k: v for k, v in row.items() if isinstance(v, (int, float, str, bool))}
            print(json.dumps(said), flush=True)
            text = write(list(rows.values()), options)
    except KeyboardInterrupt:
        stop.set()
        pool.shutdown(cancel_futures=True)
        print("interrupted; the same command goes on with what is not done", file=sys.stderr)
        sys.exit(130)
    print(text)


if __name__ == "__main__":
    main()
