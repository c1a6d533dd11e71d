"""Hexagons in the page: stencils, pictures and what a brush reaches are those of Python's hexagonal grid."""

import json

import pytest
import torch
from test_web_page import PIXELS, READ, TURNED, browser, opened, save, small, start_browser, state

from nca_fast import NCA, Rule, reference
from nca_fast.canvas.events import weights_sum
from nca_fast.hexagons import ROW, on_grid
from nca_fast.rendering.hexagons import Hexagons

__all__ = ["browser", "opened", "start_browser"]  # fixtures
HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope="module")
def hexagons(opened):
    """Bricks on hexagons, at step 0."""
    tab = small(opened("zoo:bricks"))
    tab.evaluate(
        "() => { const { app } = window.nca; app.replace(app.scene.family, { ...app.scene.settings, grid: 'hex' }); }"
    )
    return tab


def test_what_was_trained_on_squares_lives_on_hexagons_as_in_python(hexagons):
    """The largest error seen is 1e-7. Inside hexagons colours are Python's; edges are softened otherwise."""
    tab, nca = hexagons, on_grid(NCA.from_pretrained("zoo:bricks"), "hex")
    tab.evaluate("() => window.nca.app.scene.advance(12)")
    with torch.no_grad():
        exact = reference.rollout(torch.zeros(1, 12, HEIGHT, WIDTH).double(), nca.weights, nca.rule, 12, seed=5)
    assert (state(tab, 12, HEIGHT, WIDTH).double() - exact).abs().max() < 1e-6

    zoom = 8
    picture = tab.evaluate(PIXELS.replace("scene, 1)", f"scene, {zoom})"))
    drawn = Hexagons(HEIGHT, WIDTH, zoom)
    rows, columns = drawn.size
    picture = torch.tensor(picture).view(rows, columns, 4)[..., :3].permute(2, 0, 1) / 255
    expected = drawn.whole(nca.to_rgb(exact)[0].float())
    numbers = torch.arange(HEIGHT * WIDTH).double().view(1, HEIGHT, WIDTH)
    several = drawn.whole(numbers**2, light=False) - drawn.whole(numbers, light=False) ** 2 > 0.5  # cells in a pixel
    beside = torch.nn.functional.max_pool2d(several.float(), 3, 1, 1)[0] > 0
    error = (picture - expected).abs().amax(0)
    assert (~beside).float().mean() > 0.1 and error[~beside].max() < 0.6 / 255
    assert error[several[0]].mean() < 0.01  # edges


def test_a_brush_reaches_the_hexagons_under_it(hexagons):
    """Also across the edges of the torus."""
    tab = hexagons
    tab.evaluate("() => { const { scene } = window.nca.app; scene.begin(); scene.advance(6); }")
    before = state(tab, 12, HEIGHT, WIDTH)
    x, y = 1.2, 20.1  # near the lower left corner
    at = tab.evaluate(
        "(place) => { const { scene } = window.nca.app; const at = scene.rowColumn(place);"
        "scene.stroke({ tool: 'erase', from: at, to: at, radius: 3, soft: 0 }); return at; }",
        [x, y],
    )
    assert at[0] == pytest.approx(y / ROW)
    row, column = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    down = row - y / ROW
    down = down - HEIGHT * (down / HEIGHT).round()
    right = column + 0.5 * (y / ROW + down) - 0.25 - x
    right = right - WIDTH * (right / WIDTH).round()
    reached = (right**2 + (down * ROW) ** 2).sqrt() < 3
    assert 25 < reached.sum() < 40  # some 9 pi / ROW
    after = state(tab, 12, HEIGHT, WIDTH)
    assert torch.equal((after != before).any(1)[0], reached & (before != 0).any(1)[0])
    assert (after[:, :, reached] == 0).all()


def test_a_replay_is_on_hexagons_again(hexagons, opened, tmp_path):
    tab = hexagons
    tab.evaluate("() => { const { scene } = window.nca.app; scene.begin(); scene.advance(3); }")
    kept = tab.evaluate(READ)
    tab.evaluate("() => document.getElementById('link').click()")
    tab.wait_for_function("location.hash.length > 9")
    again = opened(link=tab.url)
    again.wait_for_function("window.nca.app.scene.world.step === 3 && !window.nca.app.playing")
    assert again.evaluate(READ) == kept and again.input_value("#grid") == "hex"
    again.evaluate(
        "() => { const grid = document.getElementById('grid'); grid.value = 'square';"
        "grid.dispatchEvent(new Event('change')); }"
    )  # the canvas keeps its shape
    assert again.evaluate("() => window.nca.app.scene.grid") == "square"
    assert again.evaluate("() => window.nca.app.scene.extent") == [32, 21]

    save(tmp_path / "scharr", rule=Rule(filters=("identity", "scharr_x", "scharr_y"), hidden=(8,)))
    other = opened(tmp_path / "scharr")
    assert not other.locator("#grid-row").evaluate("(row) => !row.hidden")
    own = {"models": ["scharr"], "weights": [weights_sum(NCA.from_pretrained(tmp_path / "scharr"))]}
    text = json.dumps(json.loads(TURNED) | own | {"grid": "hex", "strokes": []})
    other.set_input_files("#file", {"name": "r.json", "mimeType": "application/json", "buffer": text.encode()})
    other.wait_for_function("document.getElementById('notice').textContent.includes('cells of a shape')")
