"""Counts automata that explode: short trainings of the held set's textures, each tried on a large canvas afterwards.
`python -m bench.runaways --runs 24`

All twelve with one seed, then with the next, are trained with the defaults for --cpu-seconds on one thread (which ends
with the training's own trial, as every training does), then rolled out from start states that it never saw. A training
fails where it diverges or any value of that goes beyond the limit. The result file holds all of them; the same command
goes on where it was interrupted, and with more --runs.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from bench.harness import RESULTS, header, write_result
from bench.held_set.jobs import ENDLESS, STATE_LIMIT, cpu_clock
from bench.held_set.textures import TEXTURES
from nca_fast import checkpoint
from nca_fast.media.images import save_image
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.endurance import Endurance, endure
from nca_fast.training.run_folder import TRAINING_FILE
from nca_fast.training.session import run_training

FIRST_SEED = 1000  # of the start states of the trial


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24, help="trainings: two seeds of each texture are 24")
    parser.add_argument("--cpu-seconds", type=float, default=15, help="of each training, on one thread")
    parser.add_argument("--rollouts", type=int, default=2, help="of the trial after it")
    parser.add_argument("--side", type=int, default=256, help="rows and columns of its canvas")
    parser.add_argument("--steps", type=int, default=1000, help="of each of its rollouts")
    parser.add_argument("--disturb", type=float, help="share of disturbed states, in place of the default")
    parser.add_argument("--out", type=Path, default=RESULTS / "runaways.json", help="the result file")
    return parser.parse_args()


def do(name: str, seed: int, options: argparse.Namespace, folder: Path) -> dict:
    """Trains a texture and tries what it learned; returns the row."""
    save_image(TEXTURES[name](), folder / "original.png")
    config = TextureConfig(threads=1, seed=seed, picture_steps=1, video_steps=0, checkpoint_seconds=1e9)
    config = replace(config, minutes=options.cpu_seconds / 60, iterations=ENDLESS)
    if options.disturb is not None:
        config = replace(config, disturb=options.disturb)
    row, begin = {"name": name, "seed": seed, "failed": True}, time.process_time()
    try:
        with cpu_clock():
            result = run_training(Texture, TextureSources(str(folder / "original.png")), folder, config, progress=False)
    except FloatingPointError as error:
        return row | {"said": str(error)}
    row |= {"iterations": result.iterations, "training_said": str(result.endured)}
    row["extra_rounds"] = checkpoint.load_metadata(folder / TRAINING_FILE)["rounds"]
    trial = Endurance(options.rollouts, options.side, options.steps)
    found = endure(
        result.model,
        lambda side, seed: result.model.initial_state(1, side, side, seed=seed),
        trial,
        STATE_LIMIT,
        FIRST_SEED,
    )
    row |= {"failed": found.runaway is not None, "said": str(found), "largest": min(found.largest, 1e30)}
    return row | {"cpu_seconds": round(time.process_time() - begin, 1)}


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    asked = {k: getattr(options, k) for k in ("cpu_seconds", "rollouts", "side", "steps", "disturb")}
    before = json.loads(options.out.read_text()) if options.out.exists() else {"settings": asked, "runs": []}
    if before["settings"] != asked:
        raise SystemExit(f"{options.out} holds runs with {before['settings']}: ask for these, or for another --out")
    rows, names, facts = before["runs"], list(TEXTURES), header()
    for number in range(len(rows), options.runs):
        name, seed = names[number % len(names)], number // len(names)
        with tempfile.TemporaryDirectory() as folder:
            row = do(name, seed, options, Path(folder))
        rows.append(row | {"commit": facts["commit"]})
        print(json.dumps(rows[-1]), flush=True)
        failed, largest = sum(r["failed"] for r in rows), max(r.get("largest", 1e30) for r in rows)
        total = {"trainings": len(rows), "failed": failed, "extra_rounds": sum(r.get("extra_rounds", 0) for r in rows)}
        result = {"header": facts, "settings": asked, "total": total | {"largest": largest}, "runs": rows}
        write_result(options.out, result)
    print(f"{sum(row['failed'] for row in rows)} of {len(rows)} trainings failed")


if __name__ == "__main__":
    main()
