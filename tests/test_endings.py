"""How the program ends: one sentence and an exit status for whatever goes wrong, Ctrl-C at any moment, and standard
streams that are closed, full or of another encoding."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import fresh
import numpy as np
import pytest
import torch

import nca_fast
from nca_fast import cli, interrupts, operators, processes
from nca_fast.commands import faults, parser, streams

ROOT = Path(nca_fast.__file__).parents[1]


def keep_faults_in(monkeypatch, folder):
    monkeypatch.setattr(faults, "tempfile", SimpleNamespace(mkstemp=partial(tempfile.mkstemp, dir=folder)))


@pytest.fixture
def ends(monkeypatch, capfd, tmp_path):
    """Runs a command that does something: its exit status, and what it said."""
    keep_faults_in(monkeypatch, tmp_path)

    def run(do, *options):
        monkeypatch.setattr(parser, "parse", lambda arguments: SimpleNamespace(run=lambda line: do()))
        status = cli.main(["render", *options])
        said = capfd.readouterr()
        assert said.out == ""
        return status, said.err

    return run


def raiser(error):
    """Raises from elsewhere, as a library does."""

    def do():
        raise error

    return do


def swallowed():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise ImportError("numpy._core.multiarray failed to import")  # noqa: B904 (as libraries do)


@pytest.mark.parametrize(
    "do",
    [
        lambda: torch.empty(2**46),  # more than the addresses of a process
        lambda: np.empty(2**57),
        lambda: bytearray(2**60),
        raiser(MemoryError()),
        raiser(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB." + " GPU 0 has" * 100)),
        lambda: torch.empty(10**18, 3),
        lambda: torch.empty(2**62, 2**62),
        raiser(OSError(12, "Cannot allocate memory")),
        raiser(RuntimeError("std::bad_alloc")),
        raiser(RuntimeError("can't start new thread")),
        raiser(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later")),
        raiser(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")),
    ],
    ids=["torch", "numpy", "Python", "plain", "GPU", "bytes", "numbers", "system", "C++", "thread", "CUDA", "cuBLAS"],
)
def test_memory_that_runs_out(ends, do):
    status, said = ends(do)
    assert status == 2 and said.count("\n") == 1 and len(said) < 400
    assert re.fullmatch(
        r"nca-fast: error: memory must suffice, but does not(: .*[^.])?\. Take a smaller batch, .*\.\n", said
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/x/y"), "[Errno 13] Permission denied: '/x/y'"),
        (ModuleNotFoundError("No module named 'skimage'"), "No module named 'skimage'"),
        (ConnectionError("all 2 processes must go on"), "all 2 processes must go on"),
    ],
)
def test_what_systems_and_packages_say(ends, error, said):
    assert ends(raiser(error)) == (2, f"nca-fast: error: {said}\n")


def test_what_we_raise_is_about_what_we_were_given(ends):
    """Of whatever kind: this one is a RuntimeError, whose sentence says what to do."""
    status, said = ends(lambda: operators.no_forward_mode())
    assert status == 2 and re.fullmatch(
        'nca-fast: error: rollout has no forward mode .*use backend="reference".\n', said
    )


@pytest.mark.parametrize(
    ("do", "kind"),
    [
        (lambda: {}["steps"], "KeyError: 'steps'"),
        (lambda: None.steps, "AttributeError: 'NoneType' object has no attribute 'steps'"),
        (lambda: [1][2], "IndexError: list index out of range"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: int("x"), "ValueError: invalid literal for int"),
        (lambda: nca_fast.filters.Filter(*range(9)), "TypeError: "),
        (lambda: torch.zeros(2) @ torch.zeros(3), "RuntimeError: inconsistent tensor size"),
        (raiser(RecursionError("maximum recursion depth exceeded")), "RecursionError: maximum recursion"),
        (raiser(AssertionError()), "AssertionError: "),
    ],
)
def test_what_nobody_foresaw(ends, tmp_path, do, kind):
    """Is said in a sentence, too, and kept: it may have come after hours."""
    status, said = ends(do, "--out", "x y")
    assert status == 70 and said.count("\n") == 1
    assert re.match(rf"nca-fast: error: nobody foresaw this, .* at nca_fast.cli, line \d+: {kind}", said)
    (report,) = tmp_path.glob("nca-fast-fault-*.txt")
    assert f". Please report it, with {report}, which says more.\n" in said
    text = report.read_text()
    assert text.startswith(f"nca-fast render --out 'x y'\nnca_fast {nca_fast.__version__}, torch {torch.__version__}\n")
    assert "Traceback" in text and "in do\n" in text or "<lambda>" in text


def test_a_fault_where_no_file_can_be_written(ends, tmp_path, monkeypatch):
    keep_faults_in(monkeypatch, tmp_path / "nothing")
    status, said = ends(lambda: 1 / 0)
    assert status == 70 and said.endswith("division by zero. Please report it, with what --debug shows.\n")


@pytest.mark.parametrize("do", [raiser(KeyboardInterrupt()), swallowed], ids=["plain", "turned into another"])
def test_ctrl_c(ends, do):
    assert ends(do) == (130, "nca-fast: interrupted\n")


@pytest.mark.parametrize("name", parser.COMMANDS)
def test_every_command_has_debug(name, capsys):
    """The traceback comes first, the sentence last; help names the option."""
    command = name.split()
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    assert "--debug (an error shows where in Python it came from)" in " ".join(capsys.readouterr().out.split())
    if name in ("info", "check", "completion"):
        return
    size = ["--height", "4", "--width", "4"]
    needed = {"vae fuse": ["a", "b", "--model", "?"], "vae repair": ["a", "--model", "?"], "score": ["?.safetensors"]}
    needed |= {"vae outpaint": ["a", "--model", "?", *size], "render": ["?", "--steps", "1", *size]}
    words = needed.get(name, ["?", "a"] if name == "apply" else ["?"])
    needed |= {
        "demo": [],
        "export": ["?", "--to", "json"],
        "push": ["?", "user/name"],
        "fill": ["?", "--mask", "?", "--texture", "?"],
    }
    words = needed.get(name, words)
    words += [] if name in ("score", "push") else ["--out", "/dev/null/x.png"]
    for debug in ([], ["--debug"]):
        assert cli.main([*debug, *command, *words]) == 2
        *trace, last = capsys.readouterr().err.splitlines()
        assert last.startswith("nca-fast: error: ") and (trace[:1] == ["Traceback (most recent call last):"]) == bool(
            debug
        )
        assert debug or not trace


PROGRAM = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have switched off for pytest
{before}
sys.argv = {words!r}
from nca_fast.__main__ import main
sys.exit(main())
"""
# In place of a command: libraries print past Python, in C; files that are opened are not what they print into.
DOES = """
from nca_fast import cli
def run(arguments, own, parent):
    file = open(os.devnull)
    os.write(2, b"C")
    print("at work", file=sys.stderr)
    print("done", file.fileno() > 2)
cli._run = run
"""


def program(before, *words):
    """`python -m nca_fast`, after some code in its process: exit status, stdout and stderr."""
    done = fresh.run(["-c", PROGRAM.format(before=before, words=["nca_fast", *words])], cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


INTERRUPTING = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "nca_fast.{module}":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:  # as some libraries do
                pass
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("module", ["cli", "commands.streams"])
def test_ctrl_c_before_anything_is_prepared(module):
    """In a process of its own, since others have these modules already; without torch."""
    interrupting = INTERRUPTING.format(module=module).replace("except BaseException", "except ZeroDivisionError")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=interrupting, words=["nca_fast", "--version"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nca-fast: interrupted\n")


@pytest.mark.parametrize("module", ["commands.faults", "commands.parser", "processes", "reference"])
def test_ctrl_c_while_it_imports(module):
    assert program(INTERRUPTING.format(module=module), "check") == (130, "", "nca-fast: interrupted\n")


@pytest.fixture(params=["SIGINT", "SIGTERM"])
def heard(request):
    """The name of a signal that raises KeyboardInterrupt, as Ctrl-C does in a command and SIGTERM under torchrun."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, processes._stopped)
    with streams.heard_after_imports():
        yield request.param
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def test_signals_in_imports_are_heard_after_them(heard, tmp_path, monkeypatch):
    """Or C++ that is being set up aborts the process, as torch._dynamo's did in one of thirty tries."""
    (tmp_path / "of_the_work.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{heard})\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import of_the_work  # noqa: F401

        time.sleep(60)
    assert sys.modules.pop("of_the_work").done


def test_signals_in_an_import_that_is_the_work_are_heard(heard, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "_MOST", 2)
    body = f"import os, signal, time\nos.kill(os.getpid(), signal.{heard})\ntime.sleep(60)\n"
    (tmp_path / "the_work.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import the_work  # noqa: F401


def test_ctrl_c_that_is_switched_off_stays_so():
    """A shell starts programs in the background so."""
    before = INTERRUPTING.format(module="commands.faults") + "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert program(before, "--version") == (0, f"nca-fast {nca_fast.__version__}\n", "")


def test_the_version_needs_no_torch():
    code = "import sys; from nca_fast import cli; cli.main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"nca-fast {nca_fast.__version__}\nFalse\n"


def test_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "nca_fast", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"nca-fast {nca_fast.__version__}\n")


CLOSED = {
    "stdin": "os.close(0); sys.stdin = None",
    "stdout": "os.close(1); sys.stdout = None",
    "stderr": "os.close(2); sys.stderr = None",
}


@pytest.mark.parametrize("names", [["stderr"], list(CLOSED)], ids=",".join)
def test_closed_streams(names):
    """Nothing is opened with their numbers, and nothing that is printed is an error."""
    before = "\n".join(CLOSED[name] for name in names) + DOES
    wanted = "" if "stdout" in names else "done True\n", "" if "stderr" in names else "Cat work\n"
    assert program(before) == (0, *wanted)


NOBODY = "reader, writer = os.pipe(); os.close(reader); os.dup2(writer, {number})"
FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), {number})"
ANEW = """
sys.{name} = open({number}, "w", buffering={buffering}, closefd=False)
"""


UNABLE = "nca-fast: error: the standard output must take what is printed, but does not: No space left on device.\n"


@pytest.mark.parametrize(
    ("what", "name", "buffering", "ends"),
    [
        (NOBODY, "stdout", 8192, (141, "Cat work\n")),  # as for a file: what is printed goes out at the end
        (NOBODY, "stderr", 1, (141, "C")),
        (FULL, "stdout", 1, (2, "Cat work\n" + UNABLE)),  # as for a terminal: at every line
        (FULL, "stderr", 1, (0, "C")),  # a progress bar is no reason to end
    ],
    ids=["no reader of stdout", "no reader of stderr", "full stdout", "full stderr"],
)
def test_streams_that_take_nothing(what, name, buffering, ends):
    if what is FULL and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    before = (what + ANEW).format(name=name, number=1 if name == "stdout" else 2, buffering=buffering)
    does = DOES
    if name == "stderr":  # which is kept elsewhere, for what libraries print
        before = "kept = os.dup(2)\n" + before
        does = DOES.replace("os.write(2", "os.write(kept")
    assert program(before + does)[::2] == ends


def test_help_that_nobody_can_read():
    """tyro prints it and exits: no complaint of Python's at its end."""
    before = FULL + ANEW + "from nca_fast.commands import parser\nparser.parse = lambda _: (print('help'), sys.exit())"
    assert program(before.format(name="stdout", number=1, buffering=8192), "--help")[::2] == (2, UNABLE)


def test_a_pipe_that_does_not_block_is_made_to():
    """A parent that shares it may have told it so, node does; what it has no room for would be an error."""
    before = "import atexit; os.set_blocking(1, False)\n"
    before += "atexit.register(lambda: os.write(2, b'%d' % os.get_blocking(1)))"
    assert program(before, "--version") == (0, f"nca-fast {nca_fast.__version__}\n", "1")


ENCODINGS = """
import io, os, sys
from nca_fast.commands import streams
for encoding in ("utf-8", "ascii", "latin-1"):
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    streams.prepare()
    print(os.fsdecode(b"a\\xff") + "\\u00e9\\u2500", flush=True)
    print(sys.stdout.buffer.getvalue(), file=sys.__stdout__)
"""


def test_names_that_are_no_text_of_the_encoding():
    """Bytes come out as they were, letters that the encoding has not as escapes."""
    said = fresh.run(["-c", ENCODINGS], cwd=ROOT, check=True).stdout.splitlines()
    assert said == [
        r"b'a\xff\xc3\xa9\xe2\x94\x80\n'",
        r"b'a\xff\\xe9\\u2500\n'",
        r"b'a\xff\xe9\\u2500\n'",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of letters alone")
def test_a_folder_whose_name_is_no_text(tmp_path, capfd):
    """Models and states are opened by safetensors, which takes UTF-8 alone."""
    folder = tmp_path / os.fsdecode(b"\xff \xc3")
    nca_fast.NCA(nca_fast.Rule(channels=4, hidden=(2,))).save_pretrained(folder)
    words = ["--height", "4", "--width", "4", "--steps", "1", "--backend", "reference"]
    words = ["render", str(folder), *words, "--save-state", str(folder / "s.safetensors"), "--out"]
    assert cli.main([*words, str(folder / "x.png")]) == 0
    start = ["render", str(folder), "--steps", "1", "--start", str(folder / "s.safetensors"), "--backend", "reference"]
    assert cli.main([*start, "--out", str(folder / "y.dzi")]) == 0
    assert {"x.png", "y.dzi", "y.html"} <= set(os.listdir(folder))
    (folder / "model.safetensors").write_bytes(b"no model")
    assert cli.main([*start, "--out", str(folder / "z.png")]) == 2
    assert "must be a safetensors file, but it is something else" in capfd.readouterr().err


@pytest.mark.parametrize("columns", [1, 4, 8])
def test_help_on_a_narrow_terminal(columns, monkeypatch, capsys):
    """Ours, and the errors of tyro, which never end below 5."""
    monkeypatch.setenv("COLUMNS", str(columns))

    def over(number, frame):
        pytest.fail("help does not end")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(60)
    try:
        with pytest.raises(SystemExit):
            cli.main(["vae", "fuse", "--help"])
        with pytest.raises(SystemExit):
            cli.main(["vae", "fuse"])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert os.environ["COLUMNS"] == str(columns) and "--model" in capsys.readouterr().out
