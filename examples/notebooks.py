"""Runs the notebooks from top to bottom, each in a kernel of its own, and keeps what they show.

python -m examples.notebooks [NAME ...]        make notebooks; all five, some 5 CPU minutes
"""

import resource
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def executed(path: Path) -> tuple[float, float]:
    """Runs a notebook in place; gives wall and CPU seconds."""
    notebook = nbformat.read(path, as_version=4)
    clock, before = time.monotonic(), cpu_of_children()
    # No times: of a cell that shows the same again nothing shall differ.
    NotebookClient(notebook, timeout=None, record_timing=False, resources={"metadata": {"path": FOLDER}}).execute()
    nbformat.write(notebook, path)
    return time.monotonic() - clock, cpu_of_children() - before


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    paths = [FOLDER / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        wall, cpu = executed(path)
        print(f"{path.name}: {wall:.0f} s, {cpu:.0f} CPU seconds, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
