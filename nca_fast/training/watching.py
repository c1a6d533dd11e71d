"""Watching a training: a page that shows the previews as they grow, and TensorBoard."""

import contextlib
import webbrowser
from html import escape
from pathlib import Path
from typing import Any

from nca_fast.files import atomic_path
from nca_fast.training.loop import Report

PAGE_FILE, BOARD_FOLDER = "watch.html", "tensorboard"
SECONDS = 5  # between two looks of the page at the pictures

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ background: #222; color: #ddd; font: 16px sans-serif; margin: 1rem }}
img {{ image-rendering: pixelated; max-width: 100%; min-width: min(100%, 64rem) }}
</style>
<h1>{title}</h1>
<p id="said">waiting for the first picture</p>
<img id="shown" alt="What is learned, and what was drawn on the way">
<script>
const shown = document.getElementById("shown"), said = document.getElementById("said");
function look() {{
  const next = new Image();
  next.onload = () => {{
    shown.src = next.src;
    said.textContent = "as of " + new Date().toLocaleTimeString();
  }};
  next.src = "{picture}?" + Date.now();
}}
look();
setInterval(look, {milliseconds});
</script>
</html>
"""


def write_page(folder: Path, picture: str) -> Path:
    """Writes a page that shows a picture of its folder, and looks at it anew every few seconds; it needs no server."""
    page = folder / PAGE_FILE
    with atomic_path(page) as temporary:
        text = _PAGE.format(title=escape(folder.resolve().name), picture=escape(picture), milliseconds=1000 * SECONDS)
        temporary.write_text(text, encoding="utf-8")
    return page


def open_page(page: Path) -> bool:
    """Opens a page in a browser; says whether there is one."""
    with contextlib.suppress(OSError, webbrowser.Error):
        return webbrowser.open(page.resolve().as_uri())
    return False


class TensorBoard:
    """Writes losses, learning rate and speed of each iteration for TensorBoard, into a folder; a context manager.

    Raises:
        ImportError: The package tensorboard is missing.
    """

    def __init__(self, folder: Path, first: int = 0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard must be installed: pip install 'nca-fast[tensorboard]'.") from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=first + 1)  # what a killed run wrote later is left out

    def __call__(self, report: Report) -> None:
        values = {"loss": report.loss, **{f"terms/{name}": value for name, value in report.terms.items()}}
        values |= {"learning_rate": report.learning_rate, "cell_steps_per_second": report.speed}
        for name, value in values.items():
            self.writer.add_scalar(name, value, report.iteration)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()
