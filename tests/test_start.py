"""What is answered before torch is loaded, which takes seconds: help, and what is typed wrong."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import tyro
from nca_fast.kernels.cpu import build

from nca_fast import backends, choices, cli, features
from nca_fast.commands import streams
from nca_fast.commands.help import command_help
from nca_fast.commands.options import options
from nca_fast.commands.parser import COMMANDS, joined, parse
from nca_fast.losses import clip, content, style
from nca_fast.media import endings, film, formats, images
from nca_fast.systems import TASKS
from nca_fast.systems.vae.architecture import ARCHITECTURES

ROOT = Path(__file__).parents[1]
# What is typed, the exit status, and a part of what is said.
ANSWERS = [
    (["--version"], 0, "nca-fast "),
    (["--help"], 0, "Commands:"),
    (["zoo"], 0, "the bark of an old tree"),
    (["zoo", "bricks", "--json"], 0, '"name": "bricks"'),
    *((f"{command} --help".split(), 0, f"nca-fast {command} ") for command in COMMANDS),
    (["texture", "--help-all"], 0, "--lr-gamma NUMBER"),
    (["texure", "a.png"], 2, "there is no command 'texure'. Did you mean texture?\n"),
    (["--devise", "cpu"], 2, "there is no command '--devise'. All there are: nca-fast --help\n"),
    (
        ["texture", "a.png", "--out", "x", "--iteration", "5"],
        2,
        "texture has no option --iteration. Did you mean --iterations?\n",
    ),
    (
        ["render", "m", "--out", "x", "--qqq=5"],
        2,
        "render has no option --qqq. All there are: nca-fast render --help-all\n",
    ),
    (
        ["render", "m", "--out", "x", "--grid", "hexx"],
        2,
        "grid must be one of square, hex, but got 'hexx'. Did you mean hex?",
    ),
    (["render", "m", "--out", "x.png", "--grid=None"], 2, "model file m must exist"),
    (["web", "zoo:bricks", "--out", "page.htm"], 2, "out must end in .html, but got 'page.htm'"),
    (["clip", "--help"], 0, "nca-fast clip [PROMPT [...]] --out DIR [options]"),
    (["texture", "nothing.png", "--out", "x"], 2, "there is no 'nothing.png'"),
    (["texture", "skimage:gras", "--out", "x"], 2, "but got 'gras'. Did you mean skimage:grass?\n"),
    (["style", "skimage:grass", "--content", "nowhere", "--out", "x"], 2, "there is no 'nowhere'"),
    (
        ["clip", "a red dragon", "--out", "x"],
        2,
        "must know every word of a prompt, but not 'dragon' in 'a red dragon'.",
    ),
    (["clip", "red", "dots:-x", "--out", "x"], 2, "not ':-' in 'dots:-x'"),
    (["clip", "red", "--image-prompts", "no.png:2", "--out", "x"], 2, "--image-prompts must be an existing file"),
    (["vae", "digitz", "--out", "x"], 2, "there is none called 'digitz'. Did you mean digits?"),
    (["grow", "nothing.png", "--out", "x"], 2, "there is no 'nothing.png'"),
    *(
        (f"{command} --out x.png".split(), 2, "model file nowhere/none must exist, but there is none. Check the path")
        for command in (
            "render nowhere/none --height 4 --width 4 --steps 4",
            "apply nowhere/none skimage:cell",
            "sheet nowhere/none",
            "vae fuse digits:0 digits:1 --model nowhere/none",
        )
    ),
    *(
        (f"fill skimage:cell --out x.png {options}".split(), 2, said)
        for options, said in (
            (
                "--texture zoo:gravel --mask no.png",
                "mask must be an existing file or 'skimage:NAME', but there is no 'no.p",
            ),
            ("--mask skimage:cell --texture gravel", "no 'gravel'. Did you mean zoo:gravel or skimage:gravel?\n"),
        )
    ),
    (["info", "brick"], 2, "model file brick must exist, but there is none. Did you mean zoo:bricks?\n"),
    (["info", "zoo:nothing"], 2, "but got 'nothing'.\n"),  # and not etching
    (["info", "nowhere/none"], 2, "model file nowhere/none must exist"),
    *(
        ([name, "--out", "x", "--iterations=5", "--minutes", "1"], 2, "iterations must be left out where minutes say")
        for name in TASKS
    ),
    (["texture", "a.png", "--out", "x", "--pool-size", "0"], 2, "--pool-size must be at least 1, but got 0"),
    (["texture", "pool_size/lr_gamma", "--out", "x"], 2, "there is no 'pool_size/lr_gamma'"),  # as it was typed
    (["push", "nowhere/none", "hf:a/b"], 2, "model file nowhere/none must exist"),
    (["score", "nowhere/none.safetensors"], 2, "model file nowhere/none.safetensors must exist"),
    *(
        ([*f"{words} --out nowhere".split(), *more], 2, f"{missing} must be given to begin a run: folder nowhere")
        for words, missing in (
            ("texture", "image"),
            ("style", "style and content"),
            ("style skimage:grass", "content"),
            ("clip", "a prompt"),
            ("vae", "a data set"),
            ("grow", "image"),
        )
        for more in ([], ["--resume"])
    ),
    (["texture", "skimage:grass", "--out", "x", "--threads", "0"], 2, "threads must be from 1 to 1024, but got 0"),
]
ANSWER = """
import contextlib, io, json, sys
from nca_fast import cli
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, said.getvalue(), "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers():
    """What a process that never had torch answers to all of them."""
    asked = json.dumps([words for words, _, _ in ANSWERS])
    done = subprocess.run([sys.executable, "-c", ANSWER, asked], cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(ANSWERS)), ids=[" ".join(words) for words, _, _ in ANSWERS])
def test_answered_without_torch(answers, number):
    (_, status, said), (found, text, torch) = ANSWERS[number], answers[number]
    assert (found, torch) == (status, False) and said in text, text
    if status:
        assert text.startswith("nca-fast: error: ") and text.count("\n") == 1


def test_a_model_of_the_hub_is_not_looked_for_in_folders():
    parse(["render", "hf:nobody/nothing", "--height", "4", "--width", "4", "--steps", "4", "--out", "x.png"]).check()


def test_settings_name_what_there_is():
    """They are written apart from what they name, so that torch need not be loaded."""
    for names, table in (
        (choices.BackendName, backends.NAMES),
        (choices.PrecisionName, backends.PRECISIONS),
        (choices.FeaturesName, features.NAMES),
        (choices.StyleLossName, style.STYLE_LOSSES),
        (choices.ContentLossName, content.CONTENT_LOSSES),
        (choices.DistanceName, clip.DISTANCES),
        (choices.VAEPreset, ARCHITECTURES),
    ):
        assert set(get_args(names)) == set(table)
    assert set(endings.PILLOW) == set(images.PILLOW_FORMATS)
    assert set(endings.PICTURES) == set(formats.FORMATS) and set(endings.FILMS) == set(film.FILMS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_tyro_takes(name, capsys, monkeypatch):
    """tyro, which reads the words, has the same options, with a value or without, and the same ones are required."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tyro.cli(COMMANDS[name], args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    found = {}
    for line in capsys.readouterr().out.splitlines():
        words = [] if line.startswith("    ") else line.strip("│| ").split("  ")[0].split()
        if words and words[0].startswith("--") and words[0][2:3].isalpha():
            flags = [word.rstrip(",") for word in words if word.startswith("--")]
            found[flags[0]] = (set(flags), len(words) > len(flags))
    known = {
        option.flags[0]: (set(option.flags), bool(option.value)) for option in options(COMMANDS[name]) if option.flags
    }
    assert found == known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name, monkeypatch):
    everything = command_help(name, COMMANDS[name], True)
    for option in options(COMMANDS[name]):
        assert option.text.endswith((".", ")", "...", '"', ":")) or len(option.text) > 20, option
        assert not option.flags or option.flags[0] in everything
    few = command_help(name, COMMANDS[name], False)
    examples, _, listed = few.partition("\nOptions:")
    for flag in {flag for option in options(COMMANDS[name]) for flag in option.flags}:
        if re.search(rf"(fast|-m nca_fast) {name} .*{flag}(?![\w-])", examples):
            assert re.search(rf"^  .*{flag}(?![\w-])", listed, re.MULTILINE), f"an example has {flag}"
    shown = [line for line in few.partition("\nAlso in the examples:")[0].splitlines() if line.startswith("  --")]
    assert len(shown) <= 12, "more than --help should show: give the command a main"


@pytest.mark.parametrize("columns", [1, 20, 80, 300])
def test_help_on_terminals_of_any_width(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = command_help("texture", COMMANDS["texture"], True).splitlines()
    examples = ("    nca-fast", "nca-fast texture [")  # to be copied; terminals break them
    widest = max(len(line) for line in lines if not line.startswith(examples))
    assert widest <= max(20, min(columns, 120)), widest
    assert any(line.startswith("    nca-fast texture --out runs/brick --resume") for line in lines)


COMPLETING = """
source /dev/stdin
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _tyro_nca_fast; echo "${COMPREPLY[*]}"; }
complete_words nca-fast vae-
complete_words nca-fast texture --im
complete_words nca-fast texture --features vg
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(capsys, tmp_path):
    parse(["completion", "bash"]).run("")
    (tmp_path / "script").write_text(capsys.readouterr().out)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "script").open() as script:
        done = subprocess.run(["bash", "-c", COMPLETING], stdin=script, capture_output=True, text=True, env=environment)
    words = [sorted(line.split()) for line in done.stdout.splitlines()]
    assert words == [
        ["vae-fuse", "vae-outpaint", "vae-repair"],
        ["--image-crop", "--image-size"],
        ["vgg16", "vgg19"],
    ], done
    assert parse(joined(["vae-fuse", "a", "b", "--model", "m", "--out", "x.png"])).a == "a"


def test_long_waits_say_what_they_wait_for(monkeypatch, capsys):
    """On a terminal, and the line is taken away; a kernel that is there already is not waited for."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    compiled = []
    monkeypatch.setattr(backends, "trouble", compiled.append)
    for source in ("compiled", "not compiled yet"):
        monkeypatch.setattr(build, "status", lambda source=source: SimpleNamespace(source=source))
        cli._compile()
    said = capsys.readouterr().err
    gone = "\r\x1b[K"
    assert compiled == ["cpu"] and said == f"{gone}compiling the C++ kernel for this CPU, once, some 10 s ...{gone}"
    with streams.quiet():
        cli._compile()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    cli._compile()
    assert capsys.readouterr().err == "compiling the C++ kernel for this CPU, once, some 10 s ...\n"


WAITS = """
import sys, time
from nca_fast.commands import streams
streams.prepare()
with streams.waiting("one"):
    print("", end="", flush=True)  # no reason to go
    time.sleep(1.5)  # it counts after one second
    print("out", end="", flush=True)
    time.sleep(1.5)  # and no more, because something was written
with streams.waiting("two"):
    with streams.waiting("three"):
        pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_waiting_line_counts_and_gives_way():
    """To whatever is written; the exact bytes that a terminal gets."""
    import pty

    ours, theirs = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", WAITS], cwd=ROOT, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # as Linux says that nobody has the other end any more
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    assert done.wait() == 0
    gone = "\r\x1b[K"
    counted = rf"{gone}one \.\.\.(\rone \.\.\. [1-9] s)+{gone}out".replace("[K", r"\[K")
    rest = f"{gone}two ...{gone}{gone}three ...{gone}"
    text = said.decode()
    assert re.fullmatch(counted, text.removesuffix(rest)) and text.endswith(rest), text


def test_logs_and_warnings_are_for_people(tmp_path):
    """Where stderr is a file, bars are seldom written, and warnings say nothing of Python."""
    code = "import os, warnings; from nca_fast.commands import streams; streams.prepare(); warnings.warn('hot');"
    code += "print(os.environ['TQDM_MININTERVAL'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("30\n", "nca-fast: warning: hot\n")
