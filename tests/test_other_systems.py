"""Windows and macOS, as far as Linux can be made like them: nothing that they lack is needed."""

import ast
import os
import re
from pathlib import Path

import fresh
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("system", "compiler"), [("win32", "no-such-compiler"), ("darwin", "false")])
def test_a_newcomer_gets_along(tmp_path, system, compiler):
    """The reference serves and says what would be faster, with no compiler or one that fails; the commands work."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    environment |= {"NCA_FAST_ISA": "x86-64", "CXX": compiler}
    done = fresh.run([ROOT / "tests/other_system.py", system, tmp_path], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Traceback" not in done.stderr and done.stdout.endswith("done\n")
    assert re.search(r"nca_fast runs stock convolutions, .*compile", done.stdout), done.stdout
    asked = 2 * len(list((ROOT / "nca_fast" / "vectors").glob("*.json")))  # the reference, and the convolutions
    assert "cpu was not asked: " in done.stdout and f"{asked} of {asked} are right." in done.stdout
    assert re.search(r"not cpu +.*compile", done.stdout) and re.search(r"not triton +.*GPU", done.stdout)
    assert "commands take" in done.stdout and "canvases take" in done.stdout
    written = {path.name for path in tmp_path.rglob("*.*")}
    assert {"picture.png", "film.gif", "texture.png"} <= written, written
    assert not [name for name in written if ".state" in name or "journal" in name]


def text_without_encoding(source):
    """Lines that read or write text in the encoding that the machine prefers: on Windows seldom UTF-8."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        words = [keyword.arg for keyword in node.keywords]
        constants = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
        binary = any(re.fullmatch(r"[rwax](\+?b|b\+)", str(value)) for value in constants)
        opened = name == "open" and not isinstance(node.func, ast.Attribute)
        if (name in ("read_text", "write_text") or (opened and not binary)) and "encoding" not in words:
            yield node.lineno


def test_text_files_say_their_encoding():
    lines = ["a.read_text()", "open('x')", "open('x', 'rb' if y else 'r+b')", "os.open(x)", "open('x', 'rb+')"]
    assert list(text_without_encoding("\n".join(lines))) == [1, 2]
    # kernels/cpu reads its sources, which are ASCII.
    for path in (ROOT / "nca_fast").rglob("*.py"):
        assert not list(text_without_encoding(path.read_text(encoding="utf-8"))), path


def test_the_compiled_sources_are_ascii():
    for path in (ROOT / "kernels").rglob("*.[ch]*"):
        assert path.read_bytes().isascii(), path
