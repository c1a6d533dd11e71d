"""A VAE run on the page: the rules of its codes, mixed and taking turns, grow what they grow in Python."""

from dataclasses import replace

import pytest
import torch
from browser import browsers, tabs
from test_web_page import READ, STEP

from nca_fast import reference
from nca_fast.cli import main
from nca_fast.media.images import save_image
from nca_fast.presets import PRESETS
from nca_fast.systems.vae.architecture import Architecture
from nca_fast.systems.vae.model import VAENCA
from nca_fast.web.rules import spread

SIDE, STEPS = 12, 16
MIX = """([to, share, turns]) => {
  const set = (id, values) => {
    Object.assign(document.getElementById(id), values);
    document.getElementById(id).dispatchEvent(new Event("input"));
  };
  set("other", { value: String(to) });
  set("turns", { checked: turns });
  set("share", { value: String(share) });
}"""


@pytest.fixture(scope="module")
def run():
    """A VAE-NCA with rules that do something, and differ."""
    torch.manual_seed(5)
    rule = replace(PRESETS["vae-mnist"]["rule"], hidden=(16,))
    encoder = ((8, 4, 4, 0, False), (8, 3, 1, 0, False))
    vae = VAENCA(Architecture(rule, SIDE, 4, STEPS, encoder, (8,), True))
    with torch.no_grad():
        vae.common_w2.normal_().mul_(0.05)
        vae.w2[-1].weight.normal_().mul_(0.4)
    return vae.eval()


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return run.save_pretrained(tmp_path_factory.mktemp("model"), {"dataset": "digits"}).parent


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    with browsers() as start, tabs(start(), tmp_path_factory) as opened:
        yield opened


@pytest.fixture(scope="module")
def tab(opened, folder):
    return opened(folder)


def rules(run):
    """The rules that the page got: weights of all codes."""
    from nca_fast.media.datasets import load_pictures

    pictures = load_pictures("digits", SIDE, True).test[:500]
    with torch.no_grad():
        codes = run.encode(pictures)[0]
        return run.weights(codes[spread(codes, 8)])


def grown(run, weights, steps=STEPS):
    """What rules grow that take turns."""
    x = run.initial_state(1).double()
    with torch.no_grad():
        for n in range(steps):
            (w1, b1), (w2, _) = weights[n % len(weights)]
            double = [(w1.double(), b1.double()), (w2.double(), None)]
            x = reference.rollout(x, double, run.rule, 1, seed=0, first_step=n)
    return x[0]


def test_codes_are_mixed_and_take_turns_as_in_python(opened, tab, run, folder):
    """The largest error seen is 2e-7, of numbers up to 1.2."""
    assert tab.locator("#swatches button").count() == 8 and tab.locator("#rules-section").is_visible()
    (w1, b1), (w2, _) = rules(run)
    own = [[(w1[k], b1[k]), (w2[k], None)] for k in range(8)]
    tab.evaluate("() => window.nca.app.scene.advance(16)")
    found = {}

    def compare(name, weights):
        found[name] = torch.tensor(tab.evaluate(READ), dtype=torch.float64).view(8, SIDE, SIDE)
        exact = grown(run, weights)
        assert (found[name] - exact).abs().max() < 5e-6 * max(1.0, float(exact.abs().max())), name

    compare("first", own[:1])
    tab.evaluate(MIX, [3, 0.25, False])
    between = [(torch.lerp(w1[0], w1[3], 0.25), torch.lerp(b1[0], b1[3], 0.25)), (torch.lerp(w2[0], w2[3], 0.25), None)]
    compare("mixed", [between])
    tab.evaluate(MIX, [3, 0.25, True])
    compare("turns", [own[0], own[3]])
    assert tab.locator("#share").is_disabled() and tab.evaluate(STEP) == STEPS
    assert (
        min((found[a] - found[b]).abs().max() for a, b in (("first", "mixed"), ("first", "turns"), ("mixed", "turns")))
        > 1e-3
    )
    tab.evaluate("() => document.getElementById('link').click()")
    tab.wait_for_function("location.hash.length > 9")
    again = opened(link=tab.url)
    again.wait_for_function("window.nca.app.scene.world.step === 16 && !window.nca.app.playing")
    assert again.evaluate(READ) == tab.evaluate(READ) and again.is_checked("#turns")
    with tab.expect_download() as download:
        tab.evaluate("() => document.getElementById('save').click()")
    download.value.save_as(folder / "replay.json")


def test_python_says_that_it_is_of_a_page_alone(folder, capsys):
    if not (folder / "replay.json").exists():
        pytest.skip("the page has saved no replay")
    assert main(["render", "--replay", str(folder / "replay.json"), "--out", str(folder / "x.png")]) == 2
    assert "is of a VAE run, whose mixed rules are on its page alone" in capsys.readouterr().err


def test_choosing_a_code_grows_it(tab):
    tab.click("#swatches button:nth-child(5)")
    tab.wait_for_function("window.nca.app.scene.world.step === 16 && !window.nca.app.playing")
    assert tab.evaluate("() => window.nca.app.scene.settings.mix.from") == 4
    assert tab.get_attribute("#swatches button:nth-child(5)", "aria-checked") == "true"


def test_no_folder_that_a_model_names_is_opened_but_one_that_is_asked_for(run, tmp_path, monkeypatch):
    from nca_fast.web import models

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for number in range(60):
        save_image(torch.rand(3, 8, 8), tmp_path / "mine" / f"{number}.png")
    for number, named in enumerate((str(tmp_path / "mine"), "mine", "../mine", ["mine"], None)):
        run.save_pretrained(tmp_path / str(number), {"dataset": named})
        with pytest.warns(UserWarning, match="samples from its prior.*--dataset"):
            (model,) = models.read([str(number)])
        assert b"Sample 8" in model.file and b"mine" not in model.file
    (model,) = models.read(["0"], "mine")
    assert b"No. " in model.file and b"Sample" not in model.file and b"mine" not in model.file
    assert main(["web", "0", "--dataset", "nowhere", "--out", "page.html"]) == 2
