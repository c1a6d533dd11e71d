"""Trains the automata that come with nca_fast, and puts them on the shelf. `python -m bench.zoo [NAME ...]`

Each is trained for --cpu-seconds on one thread, tried in long rollouts, measured, drawn, and written with its card to
nca_fast/zoo/; one that does not last is not. Runs stay in runs/zoo, where the same command goes on with them.
"""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench.held_set.jobs import ENDLESS, cpu_clock, watch
from bench.held_set.textures import CONTENT
from bench.zoo.items import ITEMS, Item
from nca_fast import checkpoint, zoo
from nca_fast.commands.measure import as_learned
from nca_fast.files import atomic_path
from nca_fast.media.images import load_image, save_image
from nca_fast.scoring.content import content_kept
from nca_fast.scoring.score import Score, score
from nca_fast.systems import TASKS
from nca_fast.systems.growing import GROWN, errors, on_white, regrowth, wound
from nca_fast.systems.style import StyleSources
from nca_fast.training.endurance import Endurance, endure
from nca_fast.training.run_folder import TRAINING_FILE
from nca_fast.training.session import run_training

ROOT = Path(__file__).parents[2]
SIDE = 256  # pixels of the pictures
SHOWN = "skimage:chelsea"  # what styles are shown on; CC0
TRIAL = Endurance(2, 256, 2000)  # of textures, after the rollouts that are drawn
LATE = 10_000  # steps after which a sprite must be what it was


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ITEMS)}; all without")
    parser.add_argument("--cpu-seconds", type=float, default=300, help="budget of each training")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "zoo", help="where trainings are kept")
    parser.add_argument("--to", type=Path, default=zoo.FOLDER, help="where models and pictures go")
    options = parser.parse_args()
    unknown = set(options.names) - set(ITEMS)
    if unknown:
        parser.error(f"NAME must be one of {', '.join(ITEMS)}, but got {', '.join(sorted(unknown))}")
    return options


def train(name: str, item: Item, folder: Path, seconds: float):
    """Trains an item: the result, and the settings that it had in the end."""
    system, original, picture = TASKS[item.system].system, folder.parent / f"{name}.png", item.picture()
    folder.parent.mkdir(parents=True, exist_ok=True)
    picture.save(original) if isinstance(picture, Image.Image) else save_image(picture, original)
    asked = (str(original), CONTENT) if system.Sources is StyleSources else (str(original),)
    config = system.Config(threads=1, checkpoint_seconds=60.0, video_steps=0, **item.settings)
    config = replace(config, minutes=seconds / 60, iterations=ENDLESS)
    with cpu_clock():
        result = run_training(system, system.Sources(*asked), folder, config, resume=True, progress=False)
    return result, checkpoint.load_metadata(folder / TRAINING_FILE)


def measured(item: Item, result, config: dict, original: Path, folder: Path) -> tuple[Tensor, str, str | None, int]:
    """Draws and measures an automaton: its picture, how good it is, why it may not be shipped, and its canvas."""
    nca, said, wrong = result.model, "", None
    if item.system == "grow":
        target = checkpoint.load(folder / TRAINING_FILE)[0]["target"]
        grown = regrowth(nca, target, wound(*target.shape[1:]))
        late = nca(nca.initial_state(1, *target.shape[1:]), LATE, seed=1)
        last = float(errors(late, target).nan_to_num(1e30).mean())
        said = f"squared error {grown.before:.1g}, {grown.after:.1g} where a large circle was erased and grew again, "
        said += f"{last:.1g} after {LATE:,} steps"
        wrong = None if last < 0.02 else f"an error of {last:.3g} after {LATE:,} steps"
        zoom = SIDE // max(target.shape[1:])
        pictures = [on_white(target), *(nca.to_rgb(state)[0] for state in grown.states[:1])]
        shown = pictures[-1].clamp(0, 1).repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        whole = torch.ones(3, SIDE, SIDE)
        top, left = (SIDE - shown.shape[1]) // 2, (SIDE - shown.shape[2]) // 2
        whole[:, top : top + shown.shape[1], left : left + shown.shape[2]] = shown
        return whole, said, wrong, max(target.shape[1:])
    image = None if item.system == "texture" else load_image(SHOWN)[:, 10:290, 90:370]
    drawings, away, largest = watch(nca, image, 3, config["picture_steps"])
    size = config["style_size" if item.system == "style" else "image_size"]
    wanted = as_learned(load_image(original), size, config.get("image_crop"))
    said = in_words(score(drawings, wanted))
    if image is not None:
        said += f"; {content_kept(drawings[0], image):.2f} of what is where is kept"
    if away:
        wrong = f"{away} of 3 rollouts run away (a value of {largest:.3g})"
    elif item.system == "texture":
        found = endure(nca, lambda side, seed: nca.initial_state(1, side, side, seed=seed), TRIAL, 5.0, 100)
        wrong = str(found) if found.runaway is not None else None
    shown = drawings[0][:, :SIDE, :SIDE] if image is None else drawings[0][:, 12:268, 12:268]
    return shown, said, wrong, config.get("content_size" if item.system == "style" else "image_size")


def in_words(found: Score) -> str:
    """What a score says, in a line."""
    total = found.as_json()["total"]
    if total["says"]:
        return f"score {total['score']:.2f} (0 another part of the original, 1 only its spectrum)"
    return f"{total['distance']:.1f} times as far from the original as another half of it"


def do(name: str, options: argparse.Namespace) -> bool:
    """Trains and ships an item; False where it was not shipped."""
    item, folder = ITEMS[name], options.runs / name
    result, saved = train(name, item, folder, options.cpu_seconds)
    with torch.no_grad():
        picture, said, wrong, side = measured(item, result, saved["config"], options.runs / f"{name}.png", folder)
    save_image(picture, options.runs / f"{name}_drawn.png")
    if wrong:
        print(f"{name}: not shipped: {wrong}", flush=True)
        return False
    steps = saved["config"].get("picture_steps", GROWN)
    card = {"title": item.title, "source": item.source, "licence": item.licence, "score": said}
    facts = {"system": item.system, "command": f"python -m bench.zoo {name} --cpu-seconds {options.cpu_seconds:g}"}
    facts |= {"seconds": round(saved["seconds"], 1), "iterations": saved["iteration"], "seed": saved["config"]["seed"]}
    facts |= {"steps": steps, "shown_steps": steps, "side": side, "card": card}
    written = result.model.save_pretrained(folder / "shipped", provenance=facts)
    options.to.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.to / f"{name}.safetensors") as temporary:
        shutil.copyfile(written, temporary)
    with atomic_path(options.to / f"{name}.jpg") as temporary:
        save_image(picture, temporary)
        Image.open(temporary).save(temporary, format="JPEG", quality=88)
    shutil.rmtree(folder / "shipped")
    size = (options.to / f"{name}.safetensors").stat().st_size / 1024
    print(json.dumps({"name": name, "KB": round(size), **facts}), flush=True)
    return True


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    shipped = [do(name, options) for name in options.names or ITEMS]
    sys.exit(0 if all(shipped) else 1)


if __name__ == "__main__":
    main()
