"""Makes examples/eight.jpg: eight textures of one automaton, each a tile that is laid 2 x 2; and measures each against
an automaton of its own that learned for an eighth of the time.

python -m examples.eight [FOLDER] [--measure]        some 6 CPU minutes, with --measure 11; runs in FOLDER (runs) go on
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.zoo import drawings
from nca_fast import NCA
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.commands.measure import measured as measure
from nca_fast.commands.score import ScoreCommand
from nca_fast.media.images import image_grid, save_image
from nca_fast.rendering.render import render
from nca_fast.systems.texture import Texture, TextureConfig, TextureSources
from nca_fast.training.session import run_training

DRAWN = ("moss", "lava", "water", "giraffe", "coral", "terrazzo")
NAMES = ("brick", "gravel", *DRAWN)
CONFIG = TextureConfig(image_size=40, iterations=900, video_steps=0, picture_steps=300, threads=1)
ALONE = replace(CONFIG, iterations=1300)  # takes as long for one texture, whose automaton is smaller
SIDE, STEPS = 80, 300


def trained(names: tuple[str, ...], sources: dict[str, str], out: Path, config: TextureConfig) -> float:
    """Trains one automaton on some textures; gives the CPU seconds that this call took."""
    first, *more = (sources[name] for name in names)
    before = time.process_time()
    run_training(Texture, TextureSources(first, tuple(more)), out, config, resume=True, progress=False)
    return time.process_time() - before


def measured(run: Path, sources: dict[str, str], name: str, several: bool) -> dict[str, float]:
    """How far what a run draws is from an original, as times of another half of it, and the score."""
    asked = ScoreCommand(
        str(run), reference=sources[name], texture=name if several else None, side=2 * SIDE, steps=STEPS, seeds=2
    )
    total = measure(asked)[0].score.total
    return {"times": total.times, "phase": total.phase / total.real, "score": total.score}


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--measure"]
    runs = Path(words[0] if words else "runs")
    runs.mkdir(parents=True, exist_ok=True)
    sources = {name: f"skimage:{name}" for name in NAMES[:2]} | {name: str(runs / f"{name}.png") for name in DRAWN}
    for name in DRAWN:
        save_image(getattr(drawings, name)(), sources[name])
    seconds = {"all": trained(NAMES, sources, runs / "eight", CONFIG)}
    nca = NCA.from_pretrained(runs / "eight")
    tiles = []
    for name in NAMES:
        scene = Scene(nca, SIDE, SIDE, STEPS, seed=1, config=CanvasConfig(texture=name))
        tiles.append(nca.to_rgb(render(scene))[0].repeat(1, 2, 2))
    save_image(image_grid(tiles, 4, pad=6), Path(__file__).with_name("eight.jpg"))
    if "--measure" in sys.argv:
        found = {}
        for name in NAMES:
            seconds[name] = trained((name,), sources, runs / f"own-{name}", ALONE)
            found[name] = {
                "one of eight": measured(runs / "eight", sources, name, True),
                "its own": measured(runs / f"own-{name}", sources, name, False),
            }
            (runs / "eight.json").write_text(json.dumps({"seconds": seconds, "found": found}, indent=1))


if __name__ == "__main__":
    main()
