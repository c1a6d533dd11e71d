"""What README and docs/ say holds: their Python runs, their commands are understood, their links lead somewhere, and
their tables are those of the results and answers that they are made of."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
PYTHON = [(name, code) for name, text in PAGES.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def commands():
    """Every command line of `nca-fast`: a line of a block, or what stands between two backquotes."""
    for name, text in PAGES.items():
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        quoted = [" ".join(code.split()) for code in re.findall(r"(?<!`)`(nca-fast [^`]+)`(?!`)", text)]
        for line in lines + quoted:
            words = shlex.split(line, comments=True)
            if "nca-fast" in words[:1]:
                words = words[: words.index(">")] if ">" in words else words
                yield pytest.param(words[1:], id=f"{name}: {shlex.join(words)}")


@pytest.mark.parametrize(("name", "code"), PYTHON, ids=[name for name, _ in PYTHON])
def test_python_blocks(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {})


@pytest.mark.parametrize("words", list(commands()))
def test_commands_are_understood(words, capsys):
    from nca_fast.commands.parser import COMMANDS, joined, parse, says

    if " ".join(words) in (*COMMANDS, "--version"):  # its name alone
        return
    try:
        parse(says(joined(words))[1])
    except SystemExit as ended:
        assert ended.code == 0, capsys.readouterr().err


def test_a_wrong_command_is_noticed():
    from nca_fast.commands.parser import parse

    with pytest.raises(ValueError, match="no option --image-syze"):
        parse(["texture", "skimage:brick", "--image-syze", "64", "--out", "x"])


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name):
    named = re.findall(r'(?:\]\(|src=")(?!http|#)([^)"#]+)', PAGES[name])
    assert named or name != "README.md"
    for link in named:
        assert (ROOT / name).parent.joinpath(link).is_file(), link


@pytest.mark.parametrize("name", PAGES)
def test_modules_that_it_runs_are_there(name):
    for module in re.findall(r"python -m (bench(?:\.\w+)+)", PAGES[name]):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_what_they_are_made_of(name):
    assert tables.filled(PAGES[name]) == PAGES[name], "python docs/tables.py writes them anew"


def test_old_tables_are_noticed():
    for name, figure in (("README.md", "stock PyTorch | torch"), ("docs/backends.md", "| yes | no, 1 |")):
        assert figure in PAGES[name] and tables.filled(PAGES[name].replace(figure, "| yes | maybe |")) == PAGES[name]
    assert len(tables.BLOCK.findall(README)) == 1 and len(tables.BLOCK.findall(PAGES["docs/backends.md"])) == 3
    with pytest.raises(KeyError):
        tables.filled("<!-- table: nothing -->\n<!-- end -->")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 100
