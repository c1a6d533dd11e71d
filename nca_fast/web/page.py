"""Fills the page with models."""

import base64
import html
from pathlib import Path

from nca_fast.files import atomic_path
from nca_fast.web.bundle import SOURCE, bundled, embedded
from nca_fast.web.models import Model


def page(models: list[Model], title: str) -> str:
    """Makes the page: HTML that asks nobody for anything.

    Args:
        models: What lives on it, in the order in which it is shown. At least one.
        title: Its heading; free text.
    """
    files = [{"name": model.name, "file": base64.b64encode(model.file).decode("ascii")} for model in models]
    parts = {
        "title": html.escape(title),
        "style": (SOURCE / "page.css").read_text(encoding="utf-8").strip(),
        "poster": f'class="{models[0].poster.fit}" style="background-image: url({models[0].poster.address})"',
        "models": embedded({"models": files}),
        "script": bundled("app.js"),
    }
    # In pieces, so that nothing that was filled in is filled in again.
    first, *rest = (SOURCE / "page.html").read_text(encoding="utf-8").split("{{")
    pieces = [piece.split("}}", 1) for piece in rest]
    return first + "".join(parts[name] + text for name, text in pieces)


def write_page(models: list[Model], title: str, out: Path) -> None:
    """Writes the page to a file: all of it, or nothing.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_path(out) as temporary:
        temporary.write_text(page(models, title), encoding="utf-8")
