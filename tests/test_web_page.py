"""The page in a real browser: it runs, is painted on, says what is wrong, and a link does it all again to the bit."""

import base64
import json

import pytest
import torch
from browser import browsers, tabs

from nca_fast import NCA, Rule, reference
from nca_fast.canvas.events import weights_sum
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.turning import Turning
from nca_fast.cli import main
from nca_fast.frames import slowed
from nca_fast.web import bundle, models, page

SMALL = """(size) => {
  const { app } = window.nca;
  app.replace(app.scene.family, { height: size[0], width: size[1], seed: 5n, padding: app.scene.model.rule.padding });
}"""
READ = "() => Array.from(window.nca.app.scene.world.read())"
TITLE = "</title></script><script>window.evil=1</script>&\"'{{models}}"
TURNED = b"""{"nca_fast": 1, "models": ["bricks"], "weights": ["1b2a1eae"],
"height": 24, "width": 32, "seed": "5", "padding": "circular",
"layout": 0, "steps": 3, "strokes": [["turn", 1, 30, "spiral", 1]]}"""
STEP = "() => window.nca.app.scene.world.step"
PIXELS = "() => Array.from(window.nca.app.view.picture(window.nca.app.scene, 1).data)"


@pytest.fixture(scope="module")
def start_browser():
    with browsers() as start:
        yield start


@pytest.fixture(scope="module")
def browser(start_browser):
    return start_browser()


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    with tabs(browser, tmp_path_factory) as opened:
        yield opened


@pytest.fixture(scope="module")
def bricks(opened):
    return opened("zoo:bricks", title=TITLE)


@pytest.fixture(scope="module")
def pair(opened):
    return opened("zoo:bricks", "zoo:lava")


def small(tab):
    """Begins on a canvas of 24 x 32 cells."""
    tab.evaluate(SMALL, [24, 32])
    return tab


def state(tab, channels, height, width):
    return torch.tensor(tab.evaluate(READ)).view(1, channels, height, width)


def save(folder, **fields):
    """Saves an automaton that does something."""
    torch.manual_seed(3)
    nca = NCA(**fields, init_gain=0.5)
    nca.save_pretrained(folder)
    return nca


def test_it_runs_as_python_does(bricks):
    """The largest error seen is 1e-7, of numbers up to 0.5; PyTorch's own in float32 is as large."""
    tab, nca = small(bricks), NCA.from_pretrained("zoo:bricks")
    tab.evaluate("() => window.nca.app.scene.advance(12)")
    with torch.no_grad():
        exact = reference.rollout(torch.zeros(1, 12, 24, 32).double(), nca.weights, nca.rule, 12, seed=5)
    assert exact.abs().max() > 0.05
    assert (state(tab, 12, 24, 32).double() - exact).abs().max() < 1e-6


def turn(tab, angle, align, scale):
    tab.fill("#angle", str(angle))
    tab.select_option("#align", align)
    tab.fill("#scale", str(scale))


@pytest.mark.parametrize(
    ("angle", "align", "scale"), [(30, "cartesian", 1), (0, "dipole", 1), (200, "polar", 0.5), (0, "cartesian", 2)]
)
def test_cells_are_turned_and_scaled_as_in_python(bricks, angle, align, scale):
    """From the fourth step on. The largest error seen is 1e-7."""
    tab, nca = small(bricks), NCA.from_pretrained("zoo:bricks")
    tab.evaluate("() => window.nca.app.scene.advance(3)")
    turn(tab, angle, align, scale)
    tab.evaluate("() => window.nca.app.scene.advance(9)")
    turning = Turning(CanvasConfig(angle=angle, align=None if align == "cartesian" else align, scale=scale), 24, 32)
    rule, weights = slowed(nca.rule, nca.weights, turning.stable_dt)
    with torch.no_grad():
        exact = reference.rollout(torch.zeros(1, 12, 24, 32).double(), nca.weights, nca.rule, 3, seed=5)
        how = {"seed": 5, "first_step": 3}
        straight = reference.rollout(exact, nca.weights, nca.rule, 9, **how)
        exact = reference.rollout(exact, weights, rule, 9, frame=turning.rows(0, 24).double(), **how)
    assert (exact - straight).abs().max() > 0.01
    assert (state(tab, 12, 24, 32).double() - exact).abs().max() < 1e-6


def test_what_cannot_be_turned_has_no_controls(opened, tmp_path, bricks):
    save(tmp_path / "one", rule=Rule(filters=("identity", "sobel_x"), hidden=(8,)))
    save(tmp_path / "whole", rule=Rule(residual=False, hidden=(8,)))
    one = small(opened(tmp_path / "one"))
    assert bricks.locator("#turn-section").is_visible() and not one.locator("#turn-section").is_visible()
    whole = small(opened(tmp_path / "whole"))
    assert whole.get_attribute("#scale", "max") == "1"
    for tab, name, row in [(one, "one", [90, "polar", 1]), (whole, "whole", [0, "cartesian", 2])]:
        own = {"models": [name], "weights": [weights_sum(NCA.from_pretrained(tmp_path / name))]}
        text = json.dumps(json.loads(TURNED) | own | {"strokes": [["turn", 1, *row]]})
        tab.set_input_files("#file", {"name": "r.json", "mimeType": "application/json", "buffer": text.encode()})
        tab.wait_for_function("document.getElementById('notice').textContent.includes('cannot be turned or scaled so')")
        assert tab.evaluate(STEP) == 0


def test_textures_share_a_canvas_as_python_has_it(pair):
    """x' = sum of share times step, with the same fire masks."""
    tab = small(pair)
    shares = tab.evaluate("() => Array.from(window.nca.app.scene.world.shares.read(2))")
    shares = torch.tensor(shares).double().view(2, 1, 1, 24, 32)
    assert torch.allclose(shares.sum(0), torch.ones(()).double()) and ((shares > 0) & (shares < 1)).any()
    tab.evaluate("() => window.nca.app.scene.advance(3)")
    exact = torch.zeros(1, 12, 24, 32).double()
    with torch.no_grad():
        for n in range(3):
            parts = [NCA.from_pretrained(f"zoo:{name}") for name in ("bricks", "lava")]
            parts = [reference.rollout(exact, nca.weights, nca.rule, 1, seed=5, first_step=n) for nca in parts]
            exact = sum(share * part for share, part in zip(shares, parts, strict=True))
    assert (state(tab, 12, 24, 32).double() - exact).abs().max() < 1e-6


def test_a_link_replays_strokes_to_the_bit(opened, pair):
    tab = small(pair)
    tab.evaluate("() => window.nca.app.scene.advance(2)")
    tab.click("#swatches button:nth-child(2)")
    box = tab.locator("#screen").bounding_box()
    before = tab.evaluate("() => Array.from(window.nca.app.scene.world.shares.read(2))")
    tab.mouse.move(box["x"] + 60, box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 100, box["y"] + 60)
    tab.mouse.up()
    painted = tab.evaluate("() => Array.from(window.nca.app.scene.world.shares.read(2))")
    assert sum(abs(a - b) for a, b in zip(before, painted, strict=True)) > 1
    tab.evaluate("() => window.nca.app.scene.advance(2)")
    tab.keyboard.press("e")
    tab.mouse.click(box["x"] + 20, box["y"] + 60)
    tab.evaluate("() => window.nca.app.scene.advance(1)")
    assert tab.evaluate(STEP) == 5  # it is paused, so nothing else takes steps
    kept = tab.evaluate(READ), tab.evaluate(PIXELS)
    tab.evaluate("() => document.getElementById('link').click()")
    tab.wait_for_function("location.hash.length > 9")
    again = opened(link=tab.url)
    again.wait_for_function("window.nca.app.scene.world.step === 5 && !window.nca.app.playing")
    assert (again.evaluate(READ), again.evaluate(PIXELS)) == kept
    assert again.evaluate("() => window.nca.app.scene.events.length") >= 3


def test_a_link_replays_how_cells_were_turned_to_the_bit(opened, pair):
    tab = small(pair)
    turn(tab, 0, "dipole", 1)
    tab.evaluate("() => window.nca.app.scene.advance(2)")
    straight = tab.evaluate(READ)
    turn(tab, 75, "dipole", 1.5)
    tab.evaluate("() => window.nca.app.scene.advance(3)")
    kept = tab.evaluate(READ)
    assert kept != straight
    tab.evaluate("() => document.getElementById('link').click()")
    tab.wait_for_function("location.hash.length > 9")
    again = opened(link=tab.url)
    again.wait_for_function("window.nca.app.scene.world.step === 5 && !window.nca.app.playing")
    assert again.evaluate(READ) == kept
    assert [again.input_value(f"#{name}") for name in ("angle", "align", "scale")] == ["75", "dipole", "1.5"]
    assert again.evaluate("() => window.nca.app.scene.events.map((of) => [of.step, of.angle])") == [[0, 0], [2, 75]]
    again.evaluate("() => { const { scene } = window.nca.app; scene.restart(); scene.advance(5); }")
    assert again.evaluate(READ) != kept  # turned as it was last, from the beginning
    assert again.evaluate("() => window.nca.app.scene.events.map((of) => [of.step, of.angle])") == [[0, 75]]
    turn(tab, 0, "cartesian", 1)


def test_textures_of_one_automaton_are_painted_by_their_codes(opened, tmp_path):
    codes = {"moss": (1.0, 0.0), "stone": (0.0, 1.0)}
    save(tmp_path / "two", rule=Rule(channels=9, hidden=(8,), frozen=2), rgb_channel=2, textures=codes)
    tab = small(opened(tmp_path / "two"))
    assert tab.locator("#swatches button").all_inner_texts() == ["moss", "stone"]
    tab.evaluate(
        "() => { window.nca.app.scene.begin(0); window.nca.app.scene.fill(1); window.nca.app.scene.advance(1); }"
    )
    x = state(tab, 9, 24, 32)
    assert (x[:, 0] == 0).all() and (x[:, 1] == 1).all() and x[:, 2:].abs().max() > 0


def test_what_grows_is_planted_and_cut(opened, tmp_path):
    rule = Rule(channels=6, hidden=(8,), filters=("identity", "sobel_x"), alive_channel=3, padding="zero")
    save(tmp_path / "plant", rule=rule, start="cell")
    tab = small(opened(tmp_path / "plant"))
    x = state(tab, 6, 24, 32)
    assert x.nonzero().tolist() == [[0, c, 12, 16] for c in (3, 4, 5)]
    stroke = "{ tool: '%s', from: [5.5, 7.5], to: [5.5, 7.5], radius: 3, soft: 0 }"
    tab.evaluate(f"() => window.nca.app.scene.stroke({stroke % 'plant'})")
    x = state(tab, 6, 24, 32)
    assert [0, 4, 5, 7] in x.nonzero().tolist() and len(x.nonzero()) == 6
    tab.evaluate(f"() => window.nca.app.scene.stroke({stroke % 'erase'})")
    assert len(state(tab, 6, 24, 32).nonzero()) == 3


def test_slow_cells_fire_less_often(bricks):
    tab = small(bricks)
    stroke = "{ tool: 'speed', from: [12, 16], to: [12, 16], radius: 8, soft: 0, value: 0 }"
    tab.evaluate(f"() => {{ window.nca.app.scene.stroke({stroke}); window.nca.app.scene.advance(4); }}")
    x = state(tab, 12, 24, 32)
    assert (x[:, :, 8:16, 12:20] == 0).all() and (x[:, :, :2] != 0).any()


def test_a_picture_begins_as_in_python(opened):
    tab, nca = small(opened("zoo:night")), NCA.from_pretrained("zoo:night")
    picture = tab.evaluate("() => Array.from(window.nca.app.scene.picture.data)")
    image = torch.tensor(picture).view(24, 32, 4)[..., :3].permute(2, 0, 1) / 255
    assert torch.equal(state(tab, 16, 24, 32), nca.initial_state(1, 24, 32, seed=5, image=image))


def test_noise_begins_as_in_python(opened, tmp_path):
    """45 numbers, which are no whole groups of 16. Seen: 2e-7 apart, of numbers up to 1."""
    nca = save(tmp_path / "noisy", rule=Rule(channels=5, hidden=(8,)), start="noise")
    tab = opened(tmp_path / "noisy")
    tab.evaluate(SMALL, [3, 3])
    assert (state(tab, 5, 3, 3) - nca.initial_state(1, 3, 3, seed=5)).abs().max() < 1e-6


def test_models_are_dropped_and_others_are_refused(opened, tmp_path):
    tab = small(opened("zoo:bricks"))
    other = NCA.from_pretrained("zoo:lava")
    made = {"shown_steps": -3, "steps": "7", "config": {"picture_steps": 65537, "steps_max": 41}}
    tab.set_input_files("#file", other.save_pretrained(tmp_path / "lava", made))
    tab.wait_for_function("document.querySelectorAll('#swatches button').length === 2")
    assert tab.evaluate("() => window.nca.app.scene.world.networks") == 2
    # The one number that can be steps, as Python reads it too: test_shown_steps.py.
    assert tab.evaluate("() => window.nca.app.families[0].models.map((model) => model.steps)") == [256, 41]
    save(tmp_path / "wide", rule=Rule(channels=4, hidden=(1025,)))
    for name, content, said in [
        ("wide.safetensors", (tmp_path / "wide/model.safetensors").read_bytes(), "at most 1024 units"),
        ("note.safetensors", b"hello", "is something else"),
        ("empty.safetensors", (2).to_bytes(8, "little") + b"{}", "must carry the rule"),
        ("cut.safetensors", (tmp_path / "lava/model.safetensors").read_bytes()[:-400], "is damaged"),
        ("text.txt", b"hello", "must be a model (.safetensors), a picture or a replay"),
        ("replay.json", b'{"nca_fast": 1, "height": 0}', "must have a height"),
        ("turned.json", TURNED, "must turn by degrees"),
        ("photo.png", b"hello", "must be a picture that this browser reads"),
    ]:
        mime = "image/png" if name.endswith(".png") else "application/octet-stream"
        tab.set_input_files("#file", {"name": name, "mimeType": mime, "buffer": content})
        tab.wait_for_function("(said) => document.getElementById('notice').textContent.includes(said)", arg=said)
        tab.evaluate("() => window.nca.app.notice('')")
    assert tab.locator("#swatches button").count() == 2


def test_a_browser_without_webgl_is_told(start_browser, tmp_path):
    page.write_page(models.read(["zoo:bricks"]), "Automata", tmp_path / "page.html")
    tab = start_browser(webgl=False).new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("#notice:not([hidden])")
    assert tab.locator("#notice").inner_text().startswith("This browser has no WebGL2")


def test_half_precision_is_said(opened, bricks):
    """A GPU that draws into floats is told to do without. Seen: 5e-5 off, of numbers up to 0.1."""
    tab, nca = small(opened(link=bricks.url + "?half")), NCA.from_pretrained("zoo:bricks")
    assert tab.locator("#gpu").inner_text().startswith("Half-precision states")
    tab.evaluate("() => window.nca.app.scene.advance(4)")
    with torch.no_grad():
        exact = reference.rollout(torch.zeros(1, 12, 24, 32).double(), nca.weights, nca.rule, 4, seed=5)
    error = (state(tab, 12, 24, 32).double() - exact).abs().max()
    assert 1e-6 < error < 1e-3


def test_a_picture_is_saved(bricks):
    tab = small(bricks)
    with tab.expect_download() as download:
        tab.evaluate("() => document.getElementById('png').click()")
    assert download.value.suggested_filename == "bricks-0.png"


def test_titles_are_text(bricks):
    assert bricks.title() == TITLE and bricks.locator("h1").inner_text() == TITLE
    assert bricks.evaluate("() => window.evil") is None


def test_what_is_painted_stays_when_it_begins_again(pair):
    tab = small(pair)
    tab.evaluate("() => { const { scene } = window.nca.app; scene.fill(1); scene.advance(1); scene.restart(); }")
    shares = torch.tensor(tab.evaluate("() => Array.from(window.nca.app.scene.world.shares.read(2))")).view(2, 24, 32)
    assert tab.evaluate(STEP) == 0 and (shares[1] == 1).all() and (shares[0] == 0).all()
    assert (state(tab, 12, 24, 32) == 0).all()


def test_what_is_embedded_ends_no_script():
    text = bundle.embedded({"name": "</script><!--\u2028&"})
    assert "<" not in text and json.loads(text) == {"name": "</script><!--\u2028&"}


def test_the_file_of_a_model_tells_nothing_of_its_owner(tmp_path):
    nca = save(tmp_path / "mine", rule=Rule(hidden=(8,)))
    nca.save_pretrained(tmp_path / "mine", {"command": "nca-fast texture /home/me/secret.png", "shown_steps": 77})
    (model,) = models.read([str(tmp_path / "mine")])
    assert model.name == "mine" and b"secret" not in model.file and b'shown_steps\\": 77' in model.file
    assert base64.b64encode(model.file).decode() in page.page([model], "x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rule": Rule(channels=2, hidden=(4,))}, "channels must be at least 3"),
        ({"rule": Rule(channels=400, hidden=(4,))}, "channels times filters must be at most 1536"),
        ({"rule": Rule(hidden=(4, 2000))}, "hidden must be layers of at most 1024"),
    ],
)
def test_what_it_cannot_run_is_refused(fields, said, tmp_path, capsys):
    save(tmp_path / "run", **fields)
    assert main(["web", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "page.html").exists()


def test_wrong_commands_are_refused(tmp_path, capsys):
    assert main(["web", "zoo:bricks", "--out", str(tmp_path / "page.png")]) == 2
    assert "out must end in .html" in capsys.readouterr().err
    assert main(["web", str(tmp_path / "none"), "--out", str(tmp_path / "page.html")]) == 2
    assert "must exist" in capsys.readouterr().err
