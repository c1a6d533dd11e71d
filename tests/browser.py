"""A headless Chromium for the tests of the page, with WebGL2 by SwiftShader, which needs no GPU."""

import shutil
from contextlib import ExitStack, contextmanager

import pytest

from nca_fast.web import models, page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--ignore-gpu-blocklist")
SWIFTSHADER = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # one that films a test card


@contextmanager
def browsers():
    """Yields a function that starts a browser, playwright's Browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need pip install playwright")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"the page's tests need one of {', '.join(NAMES)}: apt-get install chromium")
    with playwright.sync_playwright() as started, ExitStack() as running:

        def start(*, webgl: bool = True, camera: bool = False):
            flags = FLAGS + CAMERA * camera + (SWIFTSHADER if webgl else ("--disable-3d-apis",))
            browser = started.chromium.launch(executable_path=program, headless=True, args=list(flags))
            running.callback(browser.close)
            return browser

        yield start


@contextmanager
def tabs(browser, folders):
    """Yields a function that opens pages with models, on a small screen; fails at the end where one asked for anything
    or broke."""
    opened_tabs = []

    def opened(*names, title="Automata", link=None, **options):
        file = folders.mktemp("page") / "page.html"
        if names:
            page.write_page(models.read(list(map(str, names))), title, file)
        # Still, so that it takes the steps alone that a test asks for. Waiting for a condition needs eval in the page.
        how = {"viewport": {"width": 340, "height": 220}, "reduced_motion": "reduce", "bypass_csp": True} | options
        tab = browser.new_context(**how).new_page()
        trouble, asked = [], []
        opened_tabs.append((tab, trouble, asked))
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(link or file.as_uri())
        tab.wait_for_function("window.nca")
        tab.evaluate("() => { Object.assign(window.nca.app.swatches, { waiting: [], growing: null }); }")
        return tab

    yield opened
    for tab, trouble, asked in opened_tabs:
        tab.context.close()
        assert trouble == []
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
