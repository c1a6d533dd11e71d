"""A headless Chromium for the tests of the page, with WebGL2 by SwiftShader, which needs no GPU."""

import shutil
from contextlib import ExitStack, contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--ignore-gpu-blocklist")
SWIFTSHADER = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@contextmanager
def browsers():
    """Yields a function that starts a browser, playwright's Browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need pip install playwright")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"the page's tests need one of {', '.join(NAMES)}: apt-get install chromium")
    with playwright.sync_playwright() as started, ExitStack() as running:

        def start(*, webgl: bool = True):
            flags = FLAGS + (SWIFTSHADER if webgl else ("--disable-3d-apis",))
            browser = started.chromium.launch(executable_path=program, headless=True, args=list(flags))
            running.callback(browser.close)
            return browser

        yield start
