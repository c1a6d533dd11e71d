"""The picture that is on the page before anything runs, and goes when something does."""

import io

import pytest
import torch
from browser import browsers, tabs
from PIL import Image

from nca_fast import NCA, Rule
from nca_fast.media.images import to_uint8
from nca_fast.web import models, page
from nca_fast.web.poster import poster

COUNTED = """
let frames = 0;
const ask = window.requestAnimationFrame.bind(window), context = HTMLCanvasElement.prototype.getContext;
window.requestAnimationFrame = (draw) => ask((now) => { frames += 1; draw(now); });
HTMLCanvasElement.prototype.getContext = function (...how) {
  window.framesBefore ??= frames;
  return context.apply(this, how);
};
"""
OPACITY = "() => getComputedStyle(document.getElementById('poster')).opacity"


def automaton(seed=3, **fields):
    torch.manual_seed(seed)
    return NCA(**fields, init_gain=1.5)


def bytes_of(jpeg):
    return torch.frombuffer(bytearray(Image.open(io.BytesIO(jpeg)).convert("RGB").tobytes()), dtype=torch.uint8).float()


ALIVE = Rule(channels=6, hidden=(8,), alive_channel=3, padding="zero")
HEXAGONS = Rule(hidden=(8,), filters=("identity", "hex_sobel_x", "hex_sobel_y", "hex_laplacian"))


@pytest.mark.parametrize(
    ("fields", "side", "size", "fit"),
    [
        ({}, None, (128, 128), "tile"),
        ({"rule": Rule(hidden=(8,), padding="reflect")}, None, (128, 128), "cover"),
        ({"rule": HEXAGONS}, 20, (35, 40), "cover"),  # sqrt(3) / 2 as high as wide, two pixels a cell
        ({"rule": ALIVE, "start": "cell"}, None, (64, 64), "contain"),
        ({"rule": ALIVE, "start": "cell"}, 28, (28, 28), "contain"),
        ({"rule": Rule(channels=9, hidden=(8,), frozen=3), "rgb_channel": 3, "start": "image"}, 30, (30, 40), "cover"),
    ],
)
def test_its_size_and_where_it_lies(fields, side, size, fit):
    made = poster(automaton(**fields), 3, side)
    assert Image.open(io.BytesIO(made.jpeg)).size == size[::-1]
    assert made.fit == fit


def test_it_is_what_the_automaton_draws():
    """But for what a JPEG loses: 10 of 255 on average, as seen; the same automaton with another seed is 33 away."""
    nca = NCA.from_pretrained("zoo:lava")
    with torch.no_grad():
        drawn, other = (nca.to_rgb(nca(nca.initial_state(1, 64, 64), 96, seed=seed))[0] for seed in (0, 1))
    made = bytes_of(poster(nca, 96, 64).jpeg)
    near, far = ((torch.from_numpy(to_uint8(one)).flatten() - made).abs().mean() for one in (drawn, other))
    assert near < 15 and far > 25


def test_one_that_blew_up_is_grey():
    nca = automaton(rule=Rule(hidden=(8,)))
    with torch.no_grad():
        nca.layers[-1].weight.fill_(1e30)
    assert (bytes_of(poster(nca, 30, 8).jpeg) - 128).abs().max() <= 1


def test_a_browser_shows_it_before_the_page_computes_and_until_it_has_taken_a_step(tmp_path, tmp_path_factory):
    """In a browser without WebGL it stays, below a sentence."""
    automaton(rule=Rule(hidden=(8,))).save_pretrained(tmp_path / "one")
    found = models.read([str(tmp_path / "one")])
    page.write_page(found, "One", tmp_path / "page.html")
    with browsers() as start:
        tab = start(webgl=False).new_page()
        tab.add_init_script(COUNTED)
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("#notice:not([hidden])")
        assert tab.evaluate("() => window.framesBefore") >= 1
        shown = tab.evaluate("() => getComputedStyle(document.getElementById('poster')).backgroundImage")
        assert shown == f'url("{found[0].poster.address}")' and tab.evaluate(OPACITY) == "1"
        with tabs(start(), tmp_path_factory) as opened:
            tab = opened(tmp_path / "one")
            tab.wait_for_function("window.nca.app.shown")  # the first drawing
            assert tab.evaluate(OPACITY) == "1"
            tab.evaluate("() => window.nca.app.once()")
            tab.wait_for_function("getComputedStyle(document.getElementById('poster')).opacity === '0'")


def test_only_the_first_automaton_of_a_page_draws(tmp_path):
    """Its picture is the only one that the page shows before it runs."""
    automaton().save_pretrained(tmp_path / "one")
    first, second = models.read([str(tmp_path / "one"), str(tmp_path / "one")])
    assert first.poster.jpeg and second.poster is None
