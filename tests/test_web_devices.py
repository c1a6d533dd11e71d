"""What the page does with fingers, keys, a camera, films and dropped files, in Chromium with a camera of test cards."""

import base64
import io

import imageio_ffmpeg
import pytest
from browser import browsers, tabs
from PIL import Image
from test_web_page import READ, SMALL, STEP

from nca_fast import zoo

DROP = """([name, type, content]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name, { type }));
  document.dispatchEvent(new DragEvent("dragover", { dataTransfer, cancelable: true }));
  const said = document.getElementById("drop").classList.contains("shown");
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
  return said && !document.getElementById("drop").classList.contains("shown");
}"""
EVENTS = "() => window.nca.app.scene.events.map((of) => of.tool)"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    with browsers() as start, tabs(start(camera=True), tmp_path_factory) as opened:
        yield opened


@pytest.fixture(scope="module")
def night(opened):
    tab = opened("zoo:night")
    tab.evaluate(SMALL, [24, 32])
    return tab


@pytest.fixture(scope="module")
def phone(opened):
    tab = opened("zoo:bricks", "zoo:lava", viewport={"width": 320, "height": 480}, has_touch=True, is_mobile=True)
    tab.evaluate(SMALL, [24, 24])
    return tab


def test_fingers_paint_move_and_zoom(phone):
    hand = phone.context.new_cdp_session(phone)

    def touch(kind, *places):
        points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (60, 80))
    touch("touchMove", (90, 90))
    touch("touchMove", (150, 120))
    touch("touchEnd")
    phone.wait_for_function("window.nca.app.scene.events.length >= 1")
    (*_, last) = phone.evaluate("() => window.nca.app.scene.events.map((of) => [of.tool, ...of.to])")
    width = phone.locator("#screen").bounding_box()["width"]
    assert last[0] == "paint" and last[2] == pytest.approx(150 / width * 24, abs=1.5)
    strokes, zoom = len(phone.evaluate(EVENTS)), phone.evaluate("() => window.nca.app.view.zoom")
    touch("touchStart", (100, 150))
    touch("touchStart", (100, 150), (200, 150))
    touch("touchMove", (80, 150), (240, 150))
    touch("touchEnd")
    phone.wait_for_function("(before) => window.nca.app.view.zoom > 1.3 * before", arg=zoom)
    assert len(phone.evaluate(EVENTS)) == strokes


def test_keys_do_what_the_list_says(phone):
    tab, press = phone, phone.keyboard.press
    tab.evaluate(SMALL, [24, 24])
    press(".")
    assert tab.evaluate(STEP) == 1
    for key, tool in zip("ensp", ("erase", "noise", "speed", "paint"), strict=True):
        press(key)
        assert tab.evaluate("() => window.nca.app.tool") == tool
        assert tab.get_attribute(f"#tool-{tool}", "aria-checked") == "true"
    press("1")
    press("Shift+ArrowRight")
    assert tab.evaluate(EVENTS) == ["paint"]
    theme = "() => document.documentElement.dataset.theme"
    before = tab.evaluate(theme)
    press("d")
    assert {before, tab.evaluate(theme)} == {"dark", "light"}
    press(" ")
    assert tab.get_attribute("#play", "aria-pressed") == "true"
    press(" ")
    tab.focus("#tool-paint")
    press("ArrowRight")  # among radio buttons
    assert tab.evaluate("() => [window.nca.app.tool, document.activeElement.id]") == ["erase", "tool-erase"]


def test_controls_have_names(phone, night):
    for tab in (phone, night):
        tab.evaluate("() => document.querySelectorAll('details').forEach((part) => (part.open = true))")
        nameless = tab.locator("button, input:not([type=file]), select, canvas[tabindex]").evaluate_all(
            """(all) => all.filter((of) => of.checkVisibility()).filter((of) => {
                const label = of.getAttribute("aria-label") || (of.labels && of.labels[0] && of.labels[0].textContent);
                return !(label || of.textContent).trim();
            }).map((of) => of.id)"""
        )
        assert nameless == []


def test_a_camera_is_redrawn_and_is_in_no_replay(night):
    begun = "() => window.nca.app.scene.begun"
    tab, before, drawn = night, night.evaluate(begun), night.evaluate(READ)
    tab.evaluate("() => document.getElementById('film').click()")
    tab.wait_for_function("document.getElementById('film').ariaPressed === 'true'")
    assert tab.input_value("#again") == "24"
    tab.fill("#again", "2")
    tab.wait_for_function("(before) => window.nca.app.scene.begun > before && window.nca.app.scene.filmed", arg=before)
    tab.evaluate("() => document.getElementById('film').click()")
    tab.evaluate("() => window.nca.app.play(false)")
    assert tab.evaluate(READ) != drawn and tab.evaluate("() => window.nca.app.camera.stream === undefined")
    tab.evaluate("() => document.getElementById('link').click()")
    tab.wait_for_function("document.getElementById('notice').textContent.startsWith('A replay does not hold')")


def test_pictures_and_models_are_dropped(night):
    content = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 40)).save(content, "png")
    assert night.evaluate(DROP, ["red.png", "image/png", base64.b64encode(content.getvalue()).decode()])
    night.wait_for_function("window.nca.app.scene.world.width === 30 && window.nca.app.scene.world.height === 20")
    assert night.evaluate("() => Array.from(window.nca.app.scene.picture.data.slice(0, 4))") == [200, 30, 40, 255]
    model = base64.b64encode(zoo.file("zoo:etching").read_bytes()).decode()
    assert night.evaluate(DROP, ["etching.safetensors", "", model])
    night.wait_for_function("window.nca.app.scene.model.name === 'etching'")


def test_a_film_is_recorded(phone, tmp_path):
    phone.evaluate("() => document.getElementById('webm').click()")
    begun = phone.evaluate(STEP)
    phone.evaluate("() => window.nca.app.play(true)")
    phone.wait_for_function("(begun) => window.nca.app.scene.world.step > begun + 8", arg=begun)
    with phone.expect_download() as download:
        phone.evaluate("() => document.getElementById('webm').click()")
    phone.evaluate("() => window.nca.app.play(false)")
    assert download.value.suggested_filename == "bricks.webm"
    download.value.save_as(tmp_path / "a.webm")
    frames = imageio_ffmpeg.read_frames(tmp_path / "a.webm")
    width, height = next(frames)["size"]
    frame = next(frames)
    assert width == phone.evaluate("() => window.nca.app.screen.width") and len(set(frame)) > 20
    assert len(frame) == 3 * width * height
