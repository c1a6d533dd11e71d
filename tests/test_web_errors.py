"""What a GPU cannot do the page says in a sentence, and goes on with what it had."""

import pytest
from test_web_page import browser, opened, save, small, start_browser

from nca_fast import Rule
from nca_fast.web import models, page

__all__ = ["browser", "opened", "start_browser"]  # fixtures
SET = """([id, value]) => {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("change"));
}"""
SAID = "(said) => document.getElementById('notice').textContent.includes(said)"


def test_what_is_too_large_for_a_gpu_is_refused(opened, tmp_path):
    tab = small(opened("zoo:bricks"))
    tab.evaluate("() => { window.nca.app.device.largest = 200; }")
    save(tmp_path / "wide", rule=Rule(hidden=(1000,)))
    tab.set_input_files("#file", tmp_path / "wide" / "model.safetensors")
    tab.wait_for_function(
        SAID, arg="The rule is too large for this GPU: the weights take 61 x 251 texels, of at most 200."
    )
    tab.evaluate(SET, ["width", "300"])
    tab.wait_for_function(SAID, arg="at most 200 cells along a side on this GPU, but has 300 x 24.")
    tab.evaluate("() => { window.nca.app.device.gl.getError = () => WebGL2RenderingContext.OUT_OF_MEMORY; }")
    tab.evaluate(SET, ["width", "64"])
    tab.wait_for_function(SAID, arg="not enough memory for 64 x 24 cells of 12 channels.")
    assert tab.input_value("#width") == "32" and tab.locator("#swatches button").count() == 1
    tab.evaluate("() => { delete window.nca.app.device.gl.getError; }")
    tab.evaluate(SET, ["width", "64"])
    assert tab.evaluate("() => window.nca.app.scene.world.width") == 64


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("getExtension = () => null", "This GPU cannot draw into textures of floating-point numbers"),
        ("getProgramParameter = () => false", "This GPU does not take the shader of this rule"),
    ],
)
def test_a_gpu_that_cannot_compute_is_told(browser, missing, said, tmp_path):
    page.write_page(models.read(["zoo:bricks"]), "Automata", tmp_path / "page.html")
    tab = browser.new_page()
    tab.add_init_script(f"WebGL2RenderingContext.prototype.{missing};")
    tab.goto((tmp_path / "page.html").as_uri())
    tab.wait_for_selector("#notice:not([hidden])")
    assert tab.locator("#notice").inner_text().startswith(said)
    tab.close()


def test_cells_are_made_faster_up_to_every_step(opened):
    """Of bricks, which fire with 0.5; one step from nothing shows who fired."""
    tab = small(opened("zoo:bricks"))
    stroke = "{ tool: 'speed', from: [12, 16], to: [12, 16], radius: 8, soft: 0, value: 2 }"
    tab.evaluate(f"() => {{ window.nca.app.scene.stroke({stroke}); window.nca.app.scene.advance(1); }}")
    assert tab.get_attribute("#slow", "max") == "2"
    x = tab.evaluate("() => Array.from(window.nca.app.scene.world.read().subarray(0, 24 * 32))")
    fired = [x[row * 32 + column] != 0 for row in range(9, 15) for column in range(13, 19)]
    outside = [x[row * 32 + column] != 0 for row in range(24) for column in range(6)]
    assert all(fired) and 0.3 < sum(outside) / len(outside) < 0.7


def test_models_with_filters_of_their_own_have_canvases_of_their_own(opened, tmp_path):
    """On a shared one all would perceive by the filters of the first."""
    for name in ("one", "two"):
        save(tmp_path / name, rule=Rule(channels=6, hidden=(8,), filters=("identity",), learned_filters=2))
    tab = opened(tmp_path / "one", tmp_path / "two")
    assert tab.evaluate("() => window.nca.app.families.length") == 2
