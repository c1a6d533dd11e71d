"""The bar that counts cell-steps while a canvas is computed."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(what: str, shown: bool, total: float, done: float = 0) -> Iterator[tqdm]:
    """Shows a bar of cell-steps on stderr from now on, with the time that is left.

    Args:
        what: What it stands before it, such as the name of the file.
        shown: False shows nothing.
        total: Cell-steps of all.
        done: Those that were done before, in a run that is resumed.
    """
    options = {"unit": "cell-steps", "unit_scale": True, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(total=total, initial=done, desc=what, disable=not shown, **options) as bar:
        yield bar
