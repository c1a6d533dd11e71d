"""Trainings on two processes under torchrun: the same automaton as on one. (CLIP has a test in test_clip_guided.py.)"""

import os
import re
import signal
import socket
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import fresh
import pytest
import torch
from runs import assert_same_run, logged
from test_growing import CONFIG as GROW
from test_vae import CONFIG as VAE
from test_vae import TINY
from trainings import train_growing, train_vae

import nca_fast
from nca_fast import checkpoint, processes
from nca_fast.media.images import save_image
from nca_fast.systems.vae.architecture import ARCHITECTURES

ROOT = Path(nca_fast.__file__).parents[1]

SCRIPT = """
import sys
from pathlib import Path

from nca_fast import processes
from test_processes import train

with processes.process_group():
    train(Path(sys.argv[1]))
    print(f"{processes.rank()} of {processes.count()}\\n", end="")  # in one piece
"""


def train(out: Path) -> None:
    """Trainings of a moment, of models that are smaller than any command line could ask for."""
    target = torch.zeros(4, 8, 8)
    target[0, 2:6, 2:6], target[3, 2:6, 2:6] = 0.8, 1
    train_growing(replace(GROW, batch_size=4, overflow_weight=0.01), target, out / "grow", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "vae-mnist", TINY)
        train_vae(replace(VAE, batch_size=4, damage=1), "digits", out / "vae", progress=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process wrote, and what two did."""
    folder = tmp_path_factory.mktemp("processes")
    train(folder / "one")
    (folder / "train.py").write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    command = [folder / "train.py", folder / "two"]
    imports = "import sklearn.datasets, test_processes, torch._dynamo"  # they take longer than the trainings
    done = fresh.together(2, command, imports, cwd=ROOT, env=environment)
    assert sorted(done.stdout.split("\n")[:-1]) == ["0 of 2", "1 of 2"]
    return folder / "one", folder / "two"


@pytest.mark.parametrize("task", ["grow", "vae"])
def test_two_processes_train_the_same_automaton(folders, task):
    one, two = (folder / task for folder in folders)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    expected, _ = checkpoint.load(one / "training.safetensors")
    found, _ = checkpoint.load(two / "training.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name == "previews":
            assert float((found[name].double() - tensor.double()).abs().max()) <= 1  # may be rounded
            continue
        # Weights, momenta, pool: sums in another order. Norms, because Adam divides each gradient by its own size, by
        # which one that nearly cancels moves its weight by a step of any size: worst seen 7e-7.
        difference, whole = (t.double().norm() for t in (found[name].double() - tensor.double(), tensor))
        assert float(difference) <= 1e-5 * float(whole), name
    assert len(logged(one)) == 4
    for a, b in zip(logged(one), logged(two), strict=True):
        assert b == pytest.approx(a, rel=1e-5)  # worst seen 7e-8


@pytest.fixture(scope="module")
def free_port():
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def launched(monkeypatch, free_port):
    """What torchrun tells the first of two processes, whose master is on a port where nobody listens."""
    port = free_port
    variables = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    for name, value in (variables | {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1))
    return port


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_meet_say_where(launched, monkeypatch, rank):
    """The first waits for the others, the others for the first; both say so in the end."""
    monkeypatch.setenv("RANK", str(rank))
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(ConnectionError, match=f"must meet at 127.0.0.1:{launched} within 1 s, but did not"),
        processes.process_group(),
    ):
        pass
    assert processes.count() == 1 and signal.getsignal(signal.SIGTERM) == before


def test_a_port_that_is_taken_is_named(launched, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(ConnectionError, match="that no other program has the port"), processes.process_group():
            pass


def test_processes_without_a_network_say_how_to_name_one(launched, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")
    with pytest.raises(ConnectionError, match="network interface .* GLOO_SOCKET_IFNAME=lo"), processes.process_group():
        pass


def test_the_meeting_is_short_and_the_work_long(launched, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with processes.process_group():
        backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
        assert backend.options._timeout == processes.PATIENCE
        assert torch.distributed.distributed_c10d._get_default_store().timeout == processes.PATIENCE


ORPHAN = """
import signal, sys, threading, time
from nca_fast import processes
processes.GRACE = 0.5
with processes._ended_with_its_parent(os.getppid()):
    if sys.argv[1] == "deaf":  # as in an exchange with another process, where no signal is heard
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, processes._stopped)
    print("here", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt as interrupt:
        print(interrupt, flush=True)
    print("left", flush=True)
"""


def test_a_torchrun_that_went_during_the_imports_is_missed():
    before = signal.signal(signal.SIGTERM, processes._stopped)
    try:
        with pytest.raises(KeyboardInterrupt, match="torchrun itself"), processes._ended_with_its_parent(parent=0):
            time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("how", "said"), [("deaf", ""), ("hearing", "torchrun itself was stopped\nleft\n")])
def test_a_process_does_not_outlive_its_torchrun(tmp_path, how, said):
    os.mkfifo(tmp_path / "pipe")
    parent = f"import os, sys; os.fork() and os.wait() or exec({ORPHAN!r})"
    started = fresh.Process(["-c", parent, how], cwd=ROOT, out=tmp_path / "pipe")
    with (tmp_path / "pipe").open() as pipe:
        assert pipe.readline() == "here\n"
        started.kill()
        rest = pipe.read()  # until the last process that has it has ended
    assert started.wait() == -signal.SIGKILL
    assert rest.endswith(said) and ("left" in rest) == (how == "hearing")


# The second process meets its end in the third iteration, as it would by the kernel's hand, or for want of memory.
ENDED = """
import os
import signal
import sys

import torch._dynamo
from nca_fast import cli
from nca_fast.commands import parser
from nca_fast.training.descent import Descent

descend = Descent.__call__


def descend_or_end(self, terms):
    if self.iteration == 2 and os.environ["RANK"] == "1":
        if os.environ.get("ENDED") == "memory":
            torch.empty(2**46)
        if os.environ.get("ENDED") == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    descend(self, terms)


Descent.__call__ = descend_or_end
for ended, *arguments in eval(sys.argv[1]):
    ranks = []
    for rank in range(2):  # new ones each time, from one that has done the imports
        ranks.append(os.fork())
        if not ranks[-1]:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "ENDED": ended}
            status = cli.main(arguments)
            sys.stderr.flush()
            os._exit(status)
    print("ended with", [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks], file=sys.stderr)
"""
MEMORY = {"nca-fast, process 1: error: memory must suffice"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory, free_port):
    """Trainings of two processes: in peace, and with such an end and once more; what each said, by its number."""
    folder = tmp_path_factory.mktemp("ended")
    save_image(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5)), folder / "picture.png")
    options = "--image-size 16 --iterations 4 --pool-size 4 --batch-size 2 --steps-min 1 --steps-max 2 --threads 1"
    options += " --picture-steps 1 --video-steps 0 --features patches --loss ot --checkpoint-every 1"
    runs = [("", "alone"), ("memory", "memory"), ("killed", "killed"), ("", "killed", "--resume")]
    command = ["texture", str(folder / "picture.png"), *options.split(), "--out"]
    runs = [(way, *command, str(folder / name), *more) for way, name, *more in runs]
    told = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    environment = os.environ | {name: str(value) for name, value in told.items()}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCHELASTIC_RUN_ID": "test"}
    done = fresh.run(["-c", ENDED, repr(runs)], cwd=ROOT, env=environment, check=True)
    said = done.stderr.replace("\r", "\n").split("ended with ")
    assert said[1].startswith("[0, 0]"), done.stderr
    return folder, [part.split("\n", 1) for part in said]


def test_a_training_whose_processes_end_says_so_and_goes_on(ended):
    """Whoever is left ends at once, without torchrun's help; with --resume the two leave the bits of those in peace."""
    folder, said = ended
    for number, (statuses, own) in enumerate(([[2, 2], MEMORY], [[2, -signal.SIGKILL], set()]), 1):
        text, found = said[number][1], said[number + 1][0]
        assert "Traceback" not in text and eval(found) == statuses
        lines = re.findall(r"nca-fast(?:, process \d)?: .*", text)  # perhaps behind the other's progress bar
        lines = {re.sub(r"(must suffice|has ended).*", r"\1", line) for line in lines}
        assert lines == {"nca-fast: error: all 2 processes must go on, but one has ended"} | own
    assert eval(said[4][0]) == [0, 0]
    assert_same_run(folder / "killed", folder / "alone")
