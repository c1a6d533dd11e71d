"""What was done on the page is done again in Python: the same masks, states within rounding, on any canvas."""

import pytest
import torch
from browser import browsers, tabs
from safetensors.torch import load_file

from nca_fast import NCA, Rule
from nca_fast.canvas.events import Events
from nca_fast.canvas.replay import read_replay
from nca_fast.cli import main

BEGIN = """([height, width, padding, grid]) => {
  const { app } = window.nca;
  const { family, model } = app.scene;
  app.replace(family, { height, width, seed: 2n ** 63n + 5n, padding: padding || model.rule.padding, grid });
}"""
READ = "() => Array.from(window.nca.app.scene.world.read())"
SHARES = "() => { const { shares } = window.nca.app.scene.world; return shares && Array.from(shares.read(2)); }"
RATES = "() => Array.from(window.nca.app.scene.world.rates.read(1))"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with browsers() as start, tabs(start(), tmp_path_factory) as opened:
        yield opened


def session(tab, *acts, size=(24, 40), padding=None, grid="square"):
    """Does acts on a new canvas: how many steps, a stroke, or a turn."""
    tab.evaluate(BEGIN, [*size, padding, grid])
    for act in acts:
        if isinstance(act, int):
            tab.evaluate("(count) => window.nca.app.scene.advance(count)", act)
        elif "tool" in act:
            tab.evaluate("(stroke) => window.nca.app.scene.stroke(stroke)", act)
        else:
            tab.evaluate("(turning) => window.nca.app.scene.turn(turning)", act)


def saved(tab, path):
    """Saves the replay as its button does."""
    with tab.expect_download() as download:
        tab.evaluate("() => document.getElementById('save').click()")
    download.value.save_as(path)
    return read_replay(path)


def stroke(tool, start, end, radius, soft=0.5, value=0):
    return {"tool": tool, "from": start, "to": end, "radius": radius, "soft": soft, "value": value}


def again(path, state, *models, more=()):
    """What render makes of a replay."""
    words = ["render", *map(str, models), "--replay", str(path), "--save-state", str(state)]
    assert main([*words, "--out", str(state.with_suffix(".png")), "--backend", "reference", *more]) == 0
    return load_file(state)["state"]


ACTS = (
    3,
    stroke("paint", [4, 5], [12, 9], 6, 0.5, 1),
    stroke("paint", [4.5, 5.25], [12, 12], 5, 0.25, 0),
    2,
    stroke("erase", [20, 30], [23, 44], 5, 0.3),  # over the right edge
    {"angle": 30, "align": "polar", "scale": 1.5},
    3,
    stroke("noise", [-2, 38], [-2, 38], 5),  # over two edges
    stroke("speed", [12, 20], [12, 20], 9, 0.5, 0.25),
    4,
    {"angle": 0, "align": "cartesian", "scale": 1},
    2,
    stroke("erase", [12, 30], [12, 34], 4, 0),  # behind the last step
)


@pytest.fixture(scope="module")
def pair(opened):
    return opened("zoo:bricks", "zoo:lava")


@pytest.mark.parametrize("grid", ["square", "hex"])
def test_a_session_is_done_again(pair, grid, tmp_path):
    """All tools on two textures. Seen: states 5e-7 apart, of numbers up to 0.6; shares and rates 3e-7."""
    tab = pair
    session(tab, *ACTS, grid=grid)
    replay = saved(tab, tmp_path / "replay.json")
    page = torch.tensor(tab.evaluate(READ)).view(12, 24, 40)
    found = again(tmp_path / "replay.json", tmp_path / "state.safetensors")
    assert page.abs().max() > 0.1 and replay.steps == 14 and replay.seed == 2**63 + 5
    assert (found - page).abs().max() < 2e-6
    ncas = [NCA.from_pretrained(f"zoo:{name}") for name in ("bricks", "lava")]
    events, rows = Events(replay, ncas, 24, 40), torch.arange(24)
    shares = torch.tensor(tab.evaluate(SHARES)).view(2, 24, 40)
    assert (events.shares(rows, 14) - shares).abs().max() < 2e-6
    assert (events.speeds(rows, 14) - torch.tensor(tab.evaluate(RATES)).view(24, 40)).abs().max() < 2e-6


def test_textures_of_one_automaton_are_painted_again(opened, tmp_path):
    """By their codes, and without a torus, where strokes end at the edges. Seen: 1e-7 apart, of numbers up to 0.5."""
    torch.manual_seed(3)
    codes = {"moss": (1.0, 0.0), "stone": (0.25, 1.0)}
    rule = Rule(channels=9, hidden=(8,), frozen=2)
    NCA(rule, rgb_channel=2, textures=codes, init_gain=0.5).save_pretrained(tmp_path / "two")
    tab = opened(tmp_path / "two")
    acts = stroke("paint", [3, 5], [3, 5], 6, 0.5, 1), 2, stroke("erase", [9, 1], [9, 1], 4), 2
    session(tab, *acts, stroke("paint", [9, 12], [9, 12], 6, 0.5, 0), size=(12, 16), padding="reflect")
    saved(tab, tmp_path / "replay.json")
    page = torch.tensor(tab.evaluate(READ)).view(9, 12, 16)
    found = again(tmp_path / "replay.json", tmp_path / "state.safetensors", tmp_path / "two")
    assert (found - page).abs().max() < 1e-6 and page[:2].std() > 0.1


def test_what_was_planted_and_cut_grows_again(opened, tmp_path):
    """Seen: 2e-7 apart, of numbers up to 1."""
    torch.manual_seed(3)
    rule = Rule(channels=6, hidden=(8,), filters=("identity", "sobel_x", "sobel_y"), alive_channel=3, padding="zero")
    NCA(rule, start="cell", init_gain=0.5).save_pretrained(tmp_path / "plant")
    tab = opened(tmp_path / "plant")
    acts = 4, stroke("plant", [3.5, 18], [3.5, 18], 3), 3, stroke("erase", [8, 10], [8, 10], 3, 0.25), 2
    session(tab, *acts, size=(12, 16))
    saved(tab, tmp_path / "replay.json")
    page = torch.tensor(tab.evaluate(READ)).view(6, 12, 16)
    found = again(tmp_path / "replay.json", tmp_path / "state.safetensors", tmp_path / "plant")
    assert (found - page).abs().max() < 1e-6 and (page[3] > 0).sum() > 15
