"""Trainings on two processes under torchrun: the same automaton as on one. (CLIP has a test in test_clip_guided.py.)"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import logged
from test_growing import CONFIG as GROW
from test_vae import CONFIG as VAE
from test_vae import TINY
from trainings import train_growing, train_vae

import nca_fast
from nca_fast import checkpoint
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(folder / "train.py"), str(folder / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
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
