"""Makes examples/page*.jpg: the page of `nca-fast web` in headless Chromium under SwiftShader, which has no GPU.

python -m examples.page [FOLDER] [NAME ...]     a minute of one core; a run in FOLDER (runs) is taken as it is

So that it does not take half an hour, states are computed as `nca-fast render --replay` does, and given to the page to
show: they are those that it would compute (tests/test_web_replay.py).
"""

import base64
import io
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import sync_playwright
from skimage import data

from nca_fast import NCA
from nca_fast.canvas.events import Events
from nca_fast.canvas.replay import Replay, Stroke
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import load_image
from nca_fast.rendering.render import render
from nca_fast.systems.growing import Growing, GrowingConfig, GrowingSources
from nca_fast.training.session import run_training
from nca_fast.web import models, page

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LADYBIRD = Path(__file__).with_name("ladybird.png")
COFFEE = Path(tempfile.gettempdir()) / "coffee.png"
SIDE = 24  # pixels of the ladybird that is grown
SHOW = """([height, width, grid, steps, state]) => {
  const { app } = window.nca;
  app.replace(app.scene.family, { ...app.scene.settings, height, width, grid: grid || app.scene.grid });
  app.play(false);
  app.scene.world.write(new Float32Array(Uint8Array.from(atob(state), (letter) => letter.charCodeAt(0)).buffer));
  app.scene.world.step = steps;
}"""
SWATCH = """([number, side, pixels]) => {
  const canvas = document.querySelectorAll("#swatches canvas")[number];
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(new ImageData(Uint8ClampedArray.from(pixels), side, side), 0, 0);
}"""
SMALL = 56  # cells of a small picture, as in source/swatches.js


def stroke(tool, step, *places, radius, soft=0.0, value=0.0):
    """A stroke from place to place."""
    ends = zip(places, places[1:] or places, strict=False)
    return [Stroke(tool, step, tuple(map(float, a)), tuple(map(float, b)), radius, soft, value) for a, b in ends]


def grown(names, height, width, steps, strokes=(), grid=None, layout="mosaic", image=None):
    """The state that a page with these models has after some steps and strokes, and its first automaton."""
    ncas = [NCA.from_pretrained(name) for name in names]
    padding = ncas[0].rule.padding
    replay = Replay(tuple(names), ("",) * len(names), height, width, 0, grid, padding, layout, steps, tuple(strokes))
    events = Events(replay, ncas, height, width)
    return render(Scene(events.ncas[0], height, width, steps, events=events, image=image)), events.ncas[0]


def ladybird(folder: Path) -> str:
    """A ladybird that was grown for some minutes of one core."""
    picture = folder / "ladybird.png"
    if not (folder / "ladybird" / "model.safetensors").exists():
        Image.open(LADYBIRD).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(picture)
        config = GrowingConfig(iterations=600, video_steps=0, threads=1)
        run_training(Growing, GrowingSources(str(picture)), folder / "ladybird", config, progress=False)
    return str(folder / "ladybird")


class Shot:
    """A page that is about to be photographed."""

    def __init__(self, browser, names, title, *, screen=WIDE, **options):
        self.names = names
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "page.html"
            page.write_page(models.read(names), title, file)
            context = browser.new_context(viewport=screen, reduced_motion="reduce", bypass_csp=True, **options)
            self.tab = context.new_page()
            self.tab.set_default_timeout(600_000)
            self.tab.goto(file.as_uri())
            self.tab.wait_for_function("window.nca")
        self.do("() => Object.assign(window.nca.app.swatches, { waiting: [], growing: null })")

    def do(self, script, argument=None):
        """Runs a script in the page."""
        return self.tab.evaluate(script, argument)

    def show(self, state, steps, grid=None):
        """Shows a state [1, C, H, W]."""
        text = base64.b64encode(state.contiguous().numpy().tobytes()).decode()  # 0.5 M numbers would take a minute
        self.do(SHOW, [*state.shape[2:], grid, steps, text])

    def save(self, path: Path):
        """Puts the small pictures in place, draws once more, and writes a JPEG of less than 250 KB."""
        for number, name in enumerate(self.names):
            image = load_image(COFFEE)[:, :SMALL, :SMALL] if NCA.from_pretrained(name).start == "image" else None
            state, nca = grown([name], SMALL, SMALL, 96 if image is not None else 200, layout=0, image=image)
            pixels = (nca.to_rgb(state)[0].permute(1, 2, 0) * 255).round()
            pixels = torch.cat([pixels, torch.full_like(pixels[..., :1], 255)], -1).int()
            self.do(SWATCH, [number, SMALL, pixels.flatten().tolist()])
        self.do("() => { const { app } = window.nca; app.shown = ''; app.notice(''); }")
        self.tab.wait_for_function("window.nca.app.shown !== ''")
        self.tab.wait_for_timeout(1500)
        image = Image.open(io.BytesIO(self.tab.screenshot())).convert("RGB")
        for quality in range(90, 40, -4):
            image.save(path, quality=quality, optimize=True)
            if path.stat().st_size < 245_000:
                break
        self.tab.context.close()


def textures(browser, runs, out):
    names = ["zoo:cobbles", "zoo:lava", "zoo:water"]
    shot = Shot(browser, [*names, "zoo:night"], "The shelf")
    wave = (40, 30), (66, 70), (112, 96), (128, 140), (96, 186)
    state, _ = grown(names, 184, 224, 160, stroke("paint", 0, *wave, radius=17.0, soft=0.4, value=1.0))
    shot.show(state, 160)
    shot.do("() => window.nca.app.choose(window.nca.app.families[0], 1)")
    shot.save(out / "page.jpg")


def hexagons(browser, runs, out):
    names = ["zoo:scales", "zoo:weave"]
    shot = Shot(browser, names, "On hexagons", color_scheme="dark")
    strokes = stroke("paint", 0, (34, 14), (34, 26), (44, 40), radius=15.0, soft=0.3, value=1.0)
    state, _ = grown(names, 72, 76, 240, strokes, grid="hex", layout=0)
    shot.do("() => { document.querySelector('details').open = true; }")
    shot.show(state, 240, "hex")
    shot.save(out / "page_hexagons.jpg")


def style(browser, runs, out):
    shot = Shot(browser, ["zoo:night", "zoo:etching"], "Redrawn")
    shot.tab.set_input_files("#file", COFFEE)
    shot.tab.wait_for_function("() => Boolean(window.nca.app.source)")
    size = shot.do("() => { const { world } = window.nca.app.scene; return [world.height, world.width]; }")
    text = shot.do("() => Array.from(window.nca.app.scene.picture.data, (v) => String.fromCharCode(v)).join('')")
    image = torch.tensor(list(text.encode("latin-1"))).view(*size, 4)[..., :3].permute(2, 0, 1) / 255
    state, _ = grown(["zoo:night"], *size, 80, layout=0, image=image)
    shot.show(state, 80)
    shot.save(out / "page_style.jpg")


def growing(browser, runs, out):
    name = ladybird(runs)
    shot = Shot(browser, [name], "What I grew")
    places = (16, 18), (18, 74), (56, 20), (55, 72)
    strokes = [s for place in places for s in stroke("plant", 0, [n + 0.5 for n in place], radius=3.0)]
    strokes += stroke("erase", 120, (8, 84), (24, 66), radius=4.0, soft=0.2)
    strokes += stroke("erase", 120, (64, 14), (64, 26), radius=6.0, soft=0.2)
    state, _ = grown([name], 72, 92, 124, strokes, layout=0)
    shot.show(state, 124)
    shot.do("() => window.nca.app.pick('erase')")
    shot.save(out / "page_growing.jpg")


def phone(browser, runs, out):
    names = ["zoo:water", "zoo:scales", "zoo:bricks", "zoo:lava"]
    shot = Shot(browser, names, "The shelf", screen=PHONE, device_scale_factor=2)
    strokes = stroke("paint", 0, (20, 16), (52, 40), (60, 84), radius=13.0, soft=0.4, value=3.0)
    state, _ = grown(names, 136, 112, 140, strokes)
    shot.show(state, 140)
    shot.do("() => window.nca.app.choose(window.nca.app.families[0], 3)")
    shot.save(out / "page_phone.jpg")


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for each other at every blend take longer where others work, too
    folder, *names = sys.argv[1:] or ["runs"]
    runs, shots = Path(folder), {f.__name__: f for f in (textures, hexagons, style, growing, phone)}
    if set(names) - set(shots):
        sys.exit(f"NAME must be any of {', '.join(shots)}, but got {', '.join(names)}.")
    runs.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.coffee()).save(COFFEE)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", headless=True, args=FLAGS)
        for name in names or shots:
            shots[name](browser, runs, Path(__file__).parent)
        browser.close()


if __name__ == "__main__":
    main()
