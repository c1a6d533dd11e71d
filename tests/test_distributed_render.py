"""A canvas on several processes: the bits of one, and runs that go on after one of them was killed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fresh
import pytest
import torch
from safetensors.torch import load_file

import nca_fast
from nca_fast import NCA, Rule, cli, processes
from nca_fast.canvas import exchange, memory
from nca_fast.canvas.band import Position
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.exchange import BandExchange, bands, check_other_counts
from nca_fast.canvas.plan import Plan, Reserve
from nca_fast.canvas.scene import Scene
from nca_fast.media.images import save_image

ROOT = Path(nca_fast.__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

# Each process draws the same canvases together; the first of two draws them alone too.
SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from nca_fast import NCA, processes
from nca_fast.media.images import load_image
from nca_fast.canvas import plan as planning
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.rendering.picture import picture

torch.set_num_threads(1)
make_plan = planning.make_plan


def bands_in_strips(*size, whole_canvas, **options):
    plan = make_plan(*size, whole_canvas=whole_canvas, **options)
    if whole_canvas:
        return plan
    if name.startswith("whole"):  # as on GPUs
        return replace(plan, in_memory=True, whole=True, ahead=False)
    return replace(plan, strip_rows=7, ahead=True)


planning.make_plan = bands_in_strips
folder = Path(sys.argv[1])
zero, torus, other, alive, two = (
    NCA.from_pretrained(folder / name) for name in ("zero", "torus", "other", "alive", "two")
)
maps = {"map": str(folder / "map.png"), "speed_map": str(folder / "speed.png")}
maps |= {"angle_map": str(folder / "map.png"), "scale_map": str(folder / "speed.png"), "align": "dipole"}
photo = load_image(folder / "photo.png")
CASES = {  # height, width, steps, name of the picture, settings, options
    "torus": (torus, 61, 40, 11, "a.png", CanvasConfig(steps_per_pass=4), {}),
    "edges": (zero, 50, 33, 9, "b.tif", CanvasConfig(), {"image": photo}),
    "alive": (alive, 47, 20, 7, "c.png", CanvasConfig(steps_per_pass=3, start="noise"), {}),
    "maps": (torus, 40, 30, 8, "d.png", CanvasConfig(steps_per_pass=5, graft=(folder / "other",), **maps), {}),
    "pyramid": (torus, 300, 300, 2, "e.dzi", CanvasConfig(), {}),
    # Every format at a height, doubled, that its tiles of 256 or 512 divide: a writer may stop at its last row.
    "whole tiles": (torus, 256, 20, 2, "h.tif", CanvasConfig(), {}),
    "whole levels": (torus, 256, 20, 2, "i.dzi", CanvasConfig(), {}),
    "whole pieces": (torus, 256, 20, 2, "j.png", CanvasConfig(), {}),
    "held": (torus, 256, 20, 2, "k.webp", CanvasConfig(), {}),
    "held, too": (torus, 50, 20, 2, "l.jpg", CanvasConfig(), {}),
    "painted": (two, 41, 30, 7, "m.png", CanvasConfig(steps_per_pass=3, paint=str(folder / "paint.png"), soft=6), {}),
    "smooth torus": (torus, 41, 30, 3, "n.png", CanvasConfig(), {}),
    "smooth edges": (zero, 50, 33, 3, "o.png", CanvasConfig(), {"image": photo}),
    "whole torus": (torus, 41, 40, 11, "f.png", CanvasConfig(steps_per_pass=4), {}),
    "whole edges": (zero, 50, 33, 7, "g.png", CanvasConfig(steps_per_pass=2), {"image": photo}),
}
with processes.process_group():
    rank, count = processes.rank(), processes.count()
    for name, (nca, height, width, steps, file, config, options) in CASES.items():
        scene, path = Scene(nca, height, width, steps, config=config, seed=5, **options), folder / str(count) / file
        drawn = {"zoom": 2, "smooth": name.startswith("smooth")}
        files = picture(scene, path, **drawn, shared=True)
        assert path in files and all(file.exists() for file in files), (name, files)
        if rank == 0 and count == 2:
            picture(scene, folder / "alone" / file, **drawn)
    print(f"{rank} of {count}\\n", end="")  # in one piece
"""
IMPORTS = "import nca_fast.rendering.picture, tifffile, torch.distributed"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    grown = {"init_gain": 0.3}
    NCA(Rule(channels=5, hidden=(8,)), start="noise", **grown).save_pretrained(folder / "torus")
    NCA(Rule(channels=5, hidden=(6,)), start="noise", **grown).save_pretrained(folder / "other")
    NCA(Rule(channels=5, hidden=(8,), padding="zero"), start="image", **grown).save_pretrained(folder / "zero")
    rule = Rule(channels=5, hidden=(8,), alive_channel=3, maximum_window=3, alive_threshold=0.0)
    NCA(rule, start="cell", **grown).save_pretrained(folder / "alive")
    codes = {"a": (1.0, 0.0), "b": (0.0, 1.0)}
    rule = Rule(channels=6, hidden=(8,), frozen=2)
    NCA(rule, rgb_channel=2, start="noise", textures=codes, **grown).save_pretrained(folder / "two")
    save_image((torch.arange(12).view(4, 3) % 2).float().expand(3, 4, 3), folder / "paint.png")
    save_image(torch.linspace(0, 1, 9).expand(3, 7, 9), folder / "map.png")
    save_image(torch.linspace(0.2, 1, 11)[:, None].expand(3, 11, 6), folder / "speed.png")
    save_image(torch.rand(3, 50, 33), folder / "photo.png")
    for name in ("alone", "2", "3"):
        (folder / name).mkdir()
    return folder


def contents(path):
    """What a picture consists of."""
    folder = path.with_name(f"{path.stem}_files")
    tiles = {tile.relative_to(folder): tile.read_bytes() for tile in folder.rglob("*.jpg")}
    return path.read_bytes(), tiles


@pytest.fixture(scope="module")
def drawn(models):
    """Canvases that two, then three processes drew together, and one alone."""
    (models / "draw.py").write_text(SCRIPT)
    for count in (2, 3):
        done = fresh.together(count, [models / "draw.py", models], IMPORTS, env=ENVIRONMENT)
        assert sorted(done.stdout.split("\n")[:-1]) == [f"{rank} of {count}" for rank in range(count)]
    return models


@pytest.mark.parametrize("count", ["2", "3"])
def test_bands_are_the_canvas_bit_for_bit(drawn, count):
    """Bands of 2 processes have two neighbours that are one; of 3, none of the heights is a multiple."""
    names = (
        "a.png",
        "b.tif",
        "c.png",
        "d.png",
        "e.dzi",
        "f.png",
        "g.png",
        "h.tif",
        "i.dzi",
        "j.png",
        "k.webp",
        "l.jpg",
        "m.png",
        "n.png",
        "o.png",
    )
    for name in names:
        assert contents(drawn / count / name) == contents(drawn / "alone" / name), name
    assert not [path.name for path in (drawn / count).iterdir() if "-of-" in path.name or path.name.startswith(".")]


def test_bands_share_the_rows():
    assert bands(10, 3, 3) == [(0, 3), (3, 6), (6, 10)]
    assert bands(2, 2, 0) == [(0, 1), (1, 2)]
    for height, count, halo, least, smallest in ((10, 3, 4, 4, 3), (2, 3, 0, 1, 0)):
        with pytest.raises(ValueError, match=f"at least the {least} rows .* for {count} processes leave {smallest}"):
            bands(height, count, halo)


@pytest.fixture
def first_of_two(monkeypatch):
    """Makes this process the first of two; returns a function that sets what the other one says when all are asked."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 0)
    monkeypatch.setattr(processes, "barrier", lambda: None)

    def other_says(answer):
        monkeypatch.setattr(processes, "all_gather_object", lambda value: [value, answer])

    return other_says


def test_passes_of_all_bands_are_as_long_as_the_least_memory_allows(first_of_two):
    plans = [Plan(20, 8, 16, False, False, True)]
    first_of_two((3, False))
    assert BandExchange(90, True).agree(plans) == [Plan(20, 3, 6, False, False, True)]
    with pytest.raises(ValueError, match="at least the 6 rows .* but 11 rows for 2 processes leave 5"):
        BandExchange(11, True).agree(plans)
    first_of_two((3, True))
    with pytest.raises(ValueError, match="must fit into their GPUs or none"):
        BandExchange(90, True).agree(plans)


def test_a_writer_may_stop_at_the_last_row(first_of_two, monkeypatch):
    """What the others send behind it is received all the same, or they would wait for ever."""
    sent = iter([torch.tensor([2, 3, 3]), torch.ones(2, 3, 3), torch.zeros(3, dtype=torch.int64)])
    monkeypatch.setattr(exchange, "_received", lambda peer, shape, dtype: next(sent))
    monkeypatch.setattr(processes, "broadcast", lambda value: value)
    write = BandExchange(8, True).together
    assert write(lambda blocks: [next(blocks).shape[0], next(blocks).shape[0]], [torch.zeros(1, 3, 3)]) == [1, 2]
    assert next(sent, None) is None


# (step, steps of the pass whose halo is stored, next row) of two bands, and whether the first must store its halo anew.
LEFT = {
    "both between passes": ((8, 0, 0), (8, 0, 0), False),
    "both within a pass": ((8, 4, 5), (8, 4, 0), False),
    "the other has no halo yet": ((8, 4, 0), (8, 0, 0), True),
    "the other is a pass behind": ((12, 4, 0), (8, 4, 7), True),
    "the other is a pass ahead": ((8, 4, 7), (12, 4, 0), False),
    "the other is still in the pass before": ((12, 0, 0), (8, 4, 0), False),
}


@pytest.mark.parametrize("case", LEFT)
def test_bands_that_were_left_at_different_moments_go_on_together(first_of_two, case):
    mine, other, anew = LEFT[case]
    position = Position(step=mine[0], pass_steps=mine[1], row=mine[2])
    first_of_two((other[0], other[1] > 0))
    BandExchange(90, True).align(position, Path("x"))
    assert position == Position(step=mine[0], pass_steps=0 if anew else mine[1], row=mine[2])
    with pytest.raises(ValueError, match="x.state does not go with the others"):
        BandExchange(90, True).align(Position(step=20, pass_steps=4, row=3), Path("x"))


# The second process kills itself, when it has new rows for its band in a pass.
KILLED = """
import os
import signal
import sys

from nca_fast import cli
from nca_fast.canvas.band import Band

passes = []
write_next = Band.write_next


def write_or_die(*arguments):
    passes.append(arguments)
    if os.environ["RANK"] == "1" and len(passes) == int(os.environ.get("KILLED_IN_PASS", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    write_next(*arguments)


Band.write_next = write_or_die
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_process_that_is_killed_ends_the_job_and_all_can_go_on(models, tmp_path):
    (tmp_path / "render.py").write_text(KILLED)
    out, state = tmp_path / "out" / "a.png", tmp_path / "out" / "a.safetensors"
    arguments = ["render", models / "torus", "--height", 61, "--width", 40, "--steps", 9, "--steps-per-pass", 3]
    arguments += ["--out", out, "--save-state", state]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, *map(str, [tmp_path / "render.py", *arguments])]
    options = {"cwd": ROOT, "env": ENVIRONMENT | {"KILLED_IN_PASS": "2"}, "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=200, **options)
    assert done.returncode == 1, done.stderr
    # The other one notices, or is stopped by torchrun, which does.
    assert "one has ended" in done.stderr or "torchrun stopped this process" in done.stderr
    assert "go on with: torchrun --nproc-per-node 2 -m nca_fast render" in done.stderr
    kept = {f"a.png.{rank}-of-2.{kind}" for rank in (1, 2) for kind in ("journal", "state")}
    assert {path.name for path in out.parent.iterdir()} == kept
    command = [tmp_path / "render.py", *arguments, "--resume"]
    done = fresh.together(2, command, "import nca_fast.cli", cwd=ROOT, env=ENVIRONMENT)
    assert done.stdout.count(str(out)) == 1  # the first process alone prints
    assert {path.name for path in out.parent.iterdir()} == {"a.png", "a.safetensors"}
    alone = tmp_path / "alone"
    arguments = [*map(str, arguments[:-4]), "--out", f"{alone}/a.png", "--save-state", f"{alone}/a.safetensors"]
    assert cli.main(arguments) == 0
    assert out.read_bytes() == (alone / "a.png").read_bytes()
    assert torch.equal(load_file(state)["state"], load_file(alone / "a.safetensors")["state"])


def test_a_disk_must_have_room_for_all_bands(first_of_two, monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "all_gather_object", lambda value: [value, value])
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    scene = Scene(NCA(Rule(channels=4, hidden=(2,))), 2048, 1024, 8)

    def begin(plan, disk):
        options = {"neighbours": BandExchange(2048, True), "reserve": Reserve(disk=disk)}
        Canvas(scene, path=tmp_path / "a.png", plan=plan, **options)

    # A band has its 1024 rows, 8 of a halo, and 8 + 1024 by which new rows are shifted.
    in_files, room = Plan(1024, 8, 8, False, False), 2**30 - 2 * 2064 * 1024 * 4 * 4
    begin(in_files, room)
    with pytest.raises(OSError, match="must have 1.0 GiB for the state and the output"):
        begin(in_files, room + 1)
    begin(Plan(1024, 8, 8, True, True), 2**30)


def test_other_processes_than_those_that_were_interrupted(first_of_two, monkeypatch, tmp_path):
    (tmp_path / "a.png.2-of-3.journal").touch()
    (tmp_path / "b.png.2-of-3.journal").touch()
    with pytest.raises(FileExistsError, match="a.png.2-of-3.journal is one of 3. Start 3 processes with --resume"):
        check_other_counts(tmp_path / "a.png")
    check_other_counts(tmp_path / "c.png")
    monkeypatch.setattr(processes, "count", lambda: 3)
    check_other_counts(tmp_path / "a.png")


@pytest.mark.parametrize(
    "arguments",
    [
        ["apply", "zoo:night", "skimage:cell", "--out", "y.png"],
        ["vae", "fuse", "a.png", "b.png", "--model", "zoo:bark", "--out", "y.png"],
        ["render", "zoo:bark", "--height", "8", "--width", "8", "--steps", "2", "--out", "a.gif"],
    ],
)
def test_what_one_process_does(first_of_two, capsys, arguments):
    assert cli.main(arguments) == 2
    assert "one process, but torchrun started 2" in capsys.readouterr().err
