"""Tiny trainings and renderings as users start them: commands, each in a process of its own.

They are forked from this process, which has run each of them once: imports take seconds of a core, but then every one
of these commands a fraction of one, so that hundreds can be killed.
"""

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from nca_fast import NCA, Rule, cli
from nca_fast.media.images import save_image
from nca_fast.systems.vae.architecture import ARCHITECTURES, Architecture
from nca_fast.textures import one_hot

CLOCKS = ("seconds", "cell_steps_per_second")  # of the lines of a log
PATIENCE = 120.0  # seconds after which a command hangs
TINY = Architecture(
    Rule(4, (6,), ("identity", "sobel_x5/8"), padding="zero", maximum_window=3, alive_channel=0),
    size=8,
    latent=3,
    steps=4,
    encoder=((4, 3, 1, 1, True), (5, 4, 1, 0, False)),
    decoder=(7,),
    grey=True,
)
SHORT = "--iterations 6 --checkpoint-every 2 --preview-every 3 --threads 1 --batch-size 2"
POOL = f"{SHORT} --pool-size 4 --steps-min 2 --steps-max 4"
CANVAS = "render {folder}/model --height 40 --width 24 --steps 24 --steps-per-pass 4"
TRAININGS = {
    "texture": f"texture {{folder}}/picture.png {POOL} --image-size 16 --features patches --loss ot --picture-steps 8 "
    "--video-steps 6",
    "several": f"texture {{folder}}/picture.png {{folder}}/map.png {POOL} --image-size 16 --features patches --loss ot "
    "--picture-steps 8 --video-steps 6",
    "style": f"style {{folder}}/picture.png --content {{folder}}/picture.png {POOL} --content-size 16 --style-size 16 "
    "--picture-size 16 --picture-steps 4 --video-steps 4 --features patches",
    "clip": f"clip red {POOL} --image-size 16 --cutouts 2 --picture-steps 8 --video-steps 6",
    "grow": f"grow {{folder}}/picture.png {POOL} --image-size 12 --image-margin 2 --video-steps 6 --damage 1",
    "vae": f"vae digits {SHORT} --video-steps 4",
}
FORMATS = ("png", "tif", "dzi", "jpg", "webp")
RENDERINGS = dict.fromkeys(FORMATS, f"{CANVAS} --resumable")
RENDERINGS |= {"png and state": f"{CANVAS} --resumable --save-state a.safetensors", "png at once": CANVAS}
GROUND = CANVAS.replace("/model", "/ground")  # an automaton of two textures
RENDERINGS |= {"png painted": f"{GROUND} --resumable --paint {{folder}}/map.png --soft 4"}
SHEETS = {"png sheet": "sheet {folder}/ground --side 12 --steps 24"}
FILMS = {ending: f"{CANVAS.replace('--steps-per-pass 4', '')} --steps-per-frame 4" for ending in ("mp4", "gif")}
FILMS |= {"mp4 turning": f"{FILMS['mp4'].replace('/model', '/ground')} --texture a --texture-to a:1,b:2 b"}


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Args:
        name: What it is called in results.
        arguments: Of the command, but for where the results go.
        resumable: Whether it knows --resume.
    """

    name: str
    arguments: tuple[str, ...]
    resumable: bool

    @property
    def training(self) -> bool:
        """Whether it is one."""
        return self.name in TRAININGS

    def to(self, folder: Path) -> tuple[str, ...]:
        """The arguments of the command that writes into a folder."""
        out = folder if self.training else folder / f"a.{self.name.split()[0]}"
        return (*(str(folder / a) if a.endswith(".safetensors") else a for a in self.arguments), "--out", str(out))


def jobs(folder: Path) -> dict[str, Job]:
    """Makes what the commands read, in a folder, and the commands, by name."""
    tqdm.monitor_interval = 0  # its thread may hold a lock when this process forks
    torch.manual_seed(0)
    torch.set_num_threads(1)
    NCA(Rule(4, (8,)), init_gain=0.3, start="noise").save_pretrained(folder / "model")
    NCA(Rule(6, (8,), frozen=2), rgb_channel=2, init_gain=0.3, start="noise", textures=one_hot("ab")).save_pretrained(
        folder / "ground"
    )
    save_image(torch.rand(3, 16, 16), folder / "picture.png")
    save_image(torch.arange(256).view(1, 16, 16).repeat(3, 1, 1) // 128 * 0.5, folder / "map.png")
    ARCHITECTURES["vae-mnist"] = TINY
    made = {}
    for name, command in (TRAININGS | RENDERINGS | SHEETS | FILMS).items():
        words = command.format(folder=folder).split()
        made[name] = Job(name, tuple(words), name in TRAININGS | RENDERINGS)
    return made


@contextlib.contextmanager
def undisturbed(
    only: Collection[str] | None = None,
) -> Iterator[tuple[Path, dict[str, Job], dict[str, tuple[dict[str, Any], float]]]]:
    """Makes ready for a campaign, on one thread: runs each job once with nothing in its way.

    Args:
        only: Names of jobs; all without.

    Yields:
        A folder that is removed in the end, in which "alone"/NAME/"here" holds what a job left; the jobs by name;
        and what `uninterrupted` found of each.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "given").mkdir()
        made = {name: job for name, job in jobs(folder / "given").items() if not only or name in only}
        yield folder, made, {name: uninterrupted(job, folder / "alone" / name) for name, job in made.items()}


def uninterrupted(job: Job, folder: Path) -> tuple[dict[str, Any], float]:
    """Runs a job here, then in a process; returns what it leaves behind and the seconds of a core that it takes."""
    here, there = folder / "here", folder / "there"
    here.mkdir(parents=True)
    there.mkdir()
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        status = cli.main(job.to(here))
    running = started(job.to(there), folder / "said")
    failed = status or running.wait()
    differs = same(contents(there), contents(here))
    if failed or differs:
        raise RuntimeError(
            f"{job.name} must work while nothing disturbs it, but: {differs} {quiet.getvalue()} {running.text()}"
        )
    return contents(here), running.seconds


class Awake:
    """Counts the seconds in which this process was looking: a machine that freezes it with its children, as one does to
    measure something else, makes no command hang."""

    def __init__(self):
        self._last, self._counted = time.monotonic(), 0.0

    def seconds(self) -> float:
        """Counts those since the look before, at most a tenth of one, to the others."""
        now = time.monotonic()
        self._counted, self._last = self._counted + min(now - self._last, 0.1), now
        return self._counted


@dataclass
class Running:
    """A process that runs a command.

    Args:
        pid: Of the process.
        said: File of what it writes to stdout and stderr.
        awake: Since it was started.
    """

    pid: int
    said: Path
    awake: Awake
    status: int | None = None
    seconds: float = 0.0  # of a core

    def spent(self) -> float:
        """Seconds of a core that its first thread has used; its last figure once it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9
        except (OSError, IndexError):
            return self.seconds

    def over(self) -> bool:
        """Whether it has ended."""
        if self.status is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.status, self.seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return self.status is not None

    def wait(self, until: Callable[[], bool] = lambda: False) -> int | None:
        """Waits until it has ended or something else is the case.

        Returns:
            Its exit status, minus the number of the signal that ended it; None while it runs. A process that hangs is
            killed, and has the status -SIGKILL.
        """
        while not self.over() and not until():
            if self.awake.seconds() > PATIENCE:
                os.kill(self.pid, signal.SIGUSR2)  # says where it is
                time.sleep(1)
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.001)
        return self.status

    def text(self) -> str:
        """What it said, without the states that a progress bar went through."""
        lines = self.said.read_text(errors="replace").replace("\r", "\n").splitlines()
        return "\n".join(line for line in lines if line.strip() and "it/s" not in line and "cell-steps" not in line)


def started(arguments: tuple[str, ...], said: Path, prepare: Callable[[], Any] = lambda: None) -> Running:
    """Forks a process that runs a command; `prepare` is called in it before."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Running(pid, said, Awake())
    status = 70
    try:
        os.setsid()  # whoever of its children is left over is found by the session
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        faulthandler.register(signal.SIGUSR2, file=2)
        tqdm.set_lock(threading.RLock())  # its own is one of all processes: one that is killed would hold it for ever
        prepare()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = cli.main(arguments)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def contents(folder: Path) -> dict[str, Any]:
    """What files a job left, hidden ones too, and what is in them, apart from the clock."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> Any:
    if path.name == "log.jsonl":
        lines = map(json.loads, path.read_text().splitlines())
        return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
    if path.suffix == ".safetensors" and not path.name.startswith("."):  # what it says has the seconds in it
        return {name: _digest(tensor.flatten().view(torch.uint8).numpy()) for name, tensor in load_file(path).items()}
    return _digest(path.read_bytes())


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Names the first file that differs, is missing or is one too many; "" when there is none."""
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            return (
                f"{name} {'is left over' if name not in expected else 'is missing' if name not in found else 'differs'}"
            )
    return ""


def orphans(session: int, patience: float = 10.0) -> list[str]:
    """The names of the processes of a session that are still there after some seconds."""
    awake = Awake()
    while (left := alive(session)) and awake.seconds() < patience:
        time.sleep(0.02)
    return list(left.values())


def alive(session: int) -> dict[int, str]:
    """The processes of a session, and what they are called."""
    left = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if int(fields[3]) == session and fields[0] != "Z":
            left[int(stat.parent.name)] = name
    return left
