"""The command that makes a page of automata."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nca_fast.commands import streams
from nca_fast.media.sources import check_data_set
from nca_fast.pretrained import check_model


@dataclass(frozen=True)
class Web:
    """Make a page on which automata live: one HTML file that runs them in a browser, without a server.

    There one paints textures into each other, plants and cuts what grows, has a picture or the camera redrawn, and
    copies a link that replays all strokes. For example:
        nca-fast web zoo:bricks zoo:lava zoo:water zoo:night --out page.html
        nca-fast web runs/brick runs/ladybird --title "What I grew" --out page.html
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]")]
    """model.safetensors of trainings, their folders, zoo:NAME or hf:USER/NAME. Those of one rule share a canvas."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The page (.html). An existing file is replaced."""
    title: str = "Automata"
    """Heading of the page."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """For VAE runs: digits, faces, or the folder of the pictures whose rules the page gets. None: the bundled set that
    the model learned; of another one samples, since no path in a model file is followed."""

    main: ClassVar[tuple[str, ...]] = ("out", "title")

    def check(self) -> None:
        """Raises ValueError or OSError for a page of another ending, or a model that is not there."""
        if self.out.suffix.lower() != ".html":
            raise ValueError(f"out must end in .html, but got {str(self.out)!r}.")
        for model in self.models:
            check_model(model)
        if self.dataset is not None:
            check_data_set(self.dataset)

    def run(self, command: str) -> None:
        """Writes the page."""
        from nca_fast.commands.ending import drawing, finish
        from nca_fast.files import check_writable
        from nca_fast.web.models import read
        from nca_fast.web.page import write_page

        check_writable(self.out.parent)
        models = read(list(self.models), self.dataset, streams.waiting)
        write_page(models, self.title, self.out)
        first = self.models[0]
        said = [
            "Open it in a browser: it needs no server and no network.",
            "What is painted on it can be saved, and drawn on a larger canvas by nca-fast render --replay FILE.",
        ]
        finish([self.out], said, [drawing(first), f"nca-fast info {shlex.quote(first)}"])
