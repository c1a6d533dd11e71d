"""The notebooks and the short scripts of examples/: their code runs, with little to do; the notebooks show what they
draw, are small, and say nothing of the machine that ran them."""

import ast
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from nca_fast.media.images import load_image
from nca_fast.media.notebook import Row

EXAMPLES = Path(__file__).parents[1] / "examples"
# What replaces settings of the cell that is tagged "parameters".
SHORT = {
    "clip": {"SIZE": 16, "POOL": 2, "STEPS": (2, 3), "ITERATIONS": 2},
    "image_manipulation": {"SIZE": 16, "POOL": 2, "STEPS": (2, 3), "ITERATIONS": 2},
    "style": {"SIZE": 16, "POOL": 2, "STEPS": (2, 3), "ITERATIONS": 2, "STROKES": 32},
    "texture": {"SIZE": 16, "CANVAS": 16, "POOL": 2, "STEPS": (2, 3), "ITERATIONS": 2, "CROP": 64, "LARGE": 32},
    "vae": {"BATCH": 2, "ITERATIONS": 2},
}
SCRIPTS = {"own_loop": ("own_loop.png",), "population": ("population.png",), "film": ("map.png", "film.mp4")}
SHELL = re.compile(r"^(\s*)([!%])(.*)$", re.MULTILINE)
LARGEST = 600_000  # bytes


def read(name):
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def code_cells(name):
    for cell in read(name):
        if cell["cell_type"] == "code":
            yield cell, "".join(cell["source"])


def test_all_are_tried():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(SHORT)


class Screen:
    """What `display` gives in a kernel; keeps the last that was shown."""

    def __init__(self):
        self.pictures = []

    def display(self, shown, display_id=False):
        self.pictures.append(self.encoded(shown))
        at = len(self.pictures) - 1

        class Handle:
            def update(handle, shown):
                self.pictures[at] = self.encoded(shown)

        return Handle()

    def encoded(self, shown):
        return shown._repr_jpeg_()  # raises for NaN


def run(name, settings):
    """Runs the cells in one namespace as a kernel would, but for lines of the shell; gives it and what was shown."""
    screen = Screen()
    names = {"display": screen.display}
    for cell, code in code_cells(name):
        tree = ast.parse(SHELL.sub(r"\1pass", code))
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        value = None if last is None else eval(compile(last, name, "eval"), names)
        if isinstance(value, Row):
            screen.display(value)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(settings) <= set(names)
            names |= settings
    return names, screen.pictures


@pytest.mark.parametrize("name", SHORT)
def test_notebooks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names, pictures = run(name, SHORT[name])
    model = names.get("nca", names.get("vae"))
    assert all(parameter in names["optimizer"].state for parameter in model.parameters()), "something was not learned"
    assert list(tmp_path.glob("runs/*/model.safetensors"))
    kept = [cell for cell, _ in code_cells(name) for out in cell["outputs"] if "image/jpeg" in out.get("data", ())]
    assert len(pictures) == len(kept) >= 4


@pytest.mark.parametrize("name", SHORT)
def test_notebooks_show_what_they_drew(name):
    path = EXAMPLES / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    counts = [cell["execution_count"] for cell, _ in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom: make notebooks"
    for cell, _ in code_cells(name):
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", output
            said = "".join(output.get("text", ()))
            assert not re.search(r"/(home|root|tmp|work|usr|opt)/", said), said


@pytest.mark.parametrize("name", SHORT)
def test_their_commands_are_understood(name):
    from nca_fast.commands.parser import joined, parse, says

    text = "\n".join("".join(cell["source"]) for cell in read(name))
    shell = [line for _, mark, line in SHELL.findall(text) if mark == "!"]
    quoted = re.findall(r"`(nca-fast [^`]+)`", text)
    assert shell and quoted
    for line in shell + quoted:
        words = shlex.split(re.sub(r"{\w+}", "skimage:brick", line).replace("PICTURES", "skimage:brick"))
        assert words[0] == "nca-fast"
        parse(says(joined(words[1:]))[1])


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run(name, tmp_path, monkeypatch):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), "4"])
    runpy.run_path(str(path), run_name="__main__")
    assert {path.name for path in tmp_path.iterdir()} == set(SCRIPTS[name])
    for picture in tmp_path.glob("*.png"):
        assert load_image(picture).std() > 0.05


def test_a_row_lays_pictures_beside_each_other():
    red, batch = torch.zeros(3, 2, 3), torch.ones(2, 3, 2, 3)
    row = Row(red, batch, zoom=4).picture
    assert row.shape == (3, 8, 4 * (3 * 3 + 2 * 2)) and (row[:, :, :12] == 0).all() and (row[:, :, 12:] == 1).all()
    assert Row(batch, columns=1).picture.shape == (3, 6, 3)
    assert Row(batch, columns=1)._repr_jpeg_()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("images", "zoom", "message"),
    [((), 1, "one or more"), ((torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)), 1, "one size"), ((), 0, "zoom")],
)
def test_a_row_refuses(images, zoom, message):
    with pytest.raises(ValueError, match=message):
        Row(*images, zoom=zoom)
