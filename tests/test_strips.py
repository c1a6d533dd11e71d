"""Canvases in strips: the bits of the canvas in one piece, whatever the memory, and after a kill at any moment."""

import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import fresh
import pytest
import torch

import nca_fast
from nca_fast import cli
from nca_fast.canvas import band as band_module
from nca_fast.canvas import start, strips
from nca_fast.canvas.band import Band, Position
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.colony import Colony, Cost
from nca_fast.canvas.exchange import Alone
from nca_fast.canvas.journal import journal_path
from nca_fast.canvas.plan import Plan, make_plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.state_file import StateFile

FIVE = tuple(tuple(1 / 25 for _ in range(5)) for _ in range(5))
RULES = {
    "torus": {},
    "zero padding": {"padding": "zero"},
    "reach 2": {"filters": ("identity", FIVE)},
    "maxima, zero padding": {"maximum_window": 3, "padding": "zero"},
    "alive mask": {"alive_channel": 3, "alive_threshold": 0.97},  # hardly above the noise: a third of the cells dies
    "alive mask, reach 3, zero padding": {
        "alive_channel": 3,
        "alive_threshold": 0.9,
        "filters": ("identity", FIVE),
        "padding": "zero",
    },
    "frozen channels": {"frozen": 3},
    "always fires": {"fire_rate": 1.0},
}


def automaton(rule: dict, start: str = "noise") -> nca_fast.NCA:
    torch.manual_seed(5)
    return nca_fast.NCA(nca_fast.Rule(channels=6, hidden=(8,), **rule), start=start, init_gain=0.3)


def scene(nca, height, width, steps, config=None) -> Scene:
    return Scene(nca, height, width, steps, seed=4, config=config or CanvasConfig())


def rolled_out(nca, height, width, steps, **options) -> torch.Tensor:
    """The canvas in one piece."""
    with torch.no_grad():
        return nca(nca.initial_state(1, height, width, seed=4), steps, seed=4, **options)[0]


def plan(nca, strip_rows, steps_per_pass, in_memory) -> Plan:
    return Plan(strip_rows, steps_per_pass, steps_per_pass * nca.rule.reach, in_memory, False)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("height", "strip_rows", "steps_per_pass"),
    [
        (11, 4, 2),  # a last strip with fewer rows
        (9, 1, 3),  # strips of one row: a halo spans several of them
        (4, 2, 7),  # halos with more rows than the canvas, which they go around more than once
        (1, 1, 2),  # one row is all there is
        (12, 12, 3),  # one strip, which has halos although it would not need them
    ],
)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_strips_are_the_canvas_in_one_piece(tmp_path, poisoned, rule, height, strip_rows, steps_per_pass, in_memory):
    nca = automaton(rule)
    cut = plan(nca, strip_rows, steps_per_pass, in_memory)
    with Canvas(scene(nca, height, 19, 8), path=tmp_path / "x.png", plan=cut) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, height), rolled_out(nca, height, 19, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.24, 0.3, 0.9, 1.35, 1.9, 3])
def test_any_memory_gives_the_same_bits(tmp_path, share):
    nca = automaton({"alive_channel": 3})
    state = 6 * 60 * 24 * 4
    memory = f"{int(share * state)}"
    with Canvas(scene(nca, 60, 24, 10, CanvasConfig(memory=memory)), path=tmp_path / "x.png") as canvas:
        canvas.go(3)
        canvas.go(7)
        canvas.go()
        assert torch.equal(canvas.rows(0, 60), rolled_out(nca, 60, 24, 10))
    assert canvas.plans[0].whole == (share >= 3)
    assert canvas.plans[0].in_memory == (share >= 1.3)


def test_memory_that_cannot_suffice_is_refused(tmp_path):
    nca = automaton({})
    with pytest.raises(ValueError, match=r"memory must be at least \d{3}\.\d KiB for rows of 4096 cells of 6 channels"):
        Canvas(scene(nca, 60, 4096, 10, CanvasConfig(memory="100kB")), path=tmp_path / "x.png")
    with pytest.raises(
        ValueError, match=r"canvas must fit into memory, but 600 x 400 cells of 6 channels need 11\.0 MiB"
    ):
        Canvas(scene(nca, 600, 400, 10, CanvasConfig(memory="5MiB")))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_at_once(tmp_path):
    with pytest.raises(OSError, match=r"must have 4\.\d TiB for the state and the output, but it has"):
        Canvas(scene(automaton({}), 10**6, 2 * 10**5, 10, CanvasConfig(memory="1GiB")), path=tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_plans_stay_within_the_memory():
    cost = Cost(reach=1, cell_bytes=96, operations=5760)
    for memory in (2**24, 2**28, 2**32):
        for width in (64, 1024, 16384):
            if memory < 3 * width * 96 + 96 * width:
                continue
            plan = make_plan(cost, 12, 16384, width, 64, memory=memory)
            rows = plan.strip_rows + 2 * plan.halo
            state = 48 * width * (16384 + 2 * plan.halo) if plan.in_memory and not plan.whole else 0
            assert rows * width * 96 + 96 * width * plan.halo + state <= memory
            assert plan.steps_per_pass <= 64
    # What the README's canvas does: one pass, strips of at least two thousand rows.
    plan = make_plan(cost, 12, 16384, 16384, 64, memory=2**32)
    assert (plan.steps_per_pass, plan.in_memory) == (64, False)
    assert plan.strip_rows > 2000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("memory", ["16000", "10MB"])
def test_sixteen_bits_round_once_per_pass(tmp_path, dtype, memory):
    nca = automaton({}, start="zeros")
    with torch.no_grad():
        nca.layers[1].weight.normal_(0, 0.3)
    config = CanvasConfig(memory=memory, state_dtype=dtype, steps_per_pass=3)
    expected = nca.initial_state(1, 50, 24)
    with Canvas(scene(nca, 50, 24, 6, config), path=tmp_path / "x.png") as canvas:
        canvas.go()
        with torch.no_grad():
            for first in (0, 3):
                expected = nca(expected, 3, seed=4, first_step=first).to(getattr(torch, dtype)).float()
        assert torch.equal(canvas.rows(0, 50), expected[0])
        assert expected.abs().max() > 0.1
    assert canvas.plans[0].in_memory == (memory == "10MB")


@pytest.mark.parametrize("kind", ["zeros", "noise", "image", "cell"])
@pytest.mark.parametrize(
    ("height", "width", "piece"), [(37, 23, 64), (37, 23, 2**22), (16, 16, 64), (1, 1, 64), (3, 1, 64)]
)
def test_starts_are_those_of_the_automaton(monkeypatch, tmp_path, kind, height, width, piece):
    rule = nca_fast.Rule(channels=7, hidden=(4,), frozen=3 * (kind == "image"), alive_channel=3)
    nca = nca_fast.NCA(rule, start=kind)
    image = torch.rand(3, height, width) if kind == "image" else None
    expected = nca.initial_state(1, height, width, seed=3, image=image)[0]
    begun = Scene(nca, height, width, 1, seed=3, image=image)
    monkeypatch.setattr(start, "PIECE", piece)
    monkeypatch.setattr(band_module, "BLOCK", 500)
    for first, end in ((0, height), (height // 2, height // 2 + 1)):
        for path in (None, tmp_path / "band"):
            band = Band(7, end - first, width, halo=2, shift=5, path=path)
            start.find_start(begun).write(band, begun, height, width, first_row=first)
            assert torch.equal(band.read(0, end - first), expected[:, first:end])
            band.remove()


class Killed(BaseException):
    pass


def killed_at(monkeypatch, count, canvas) -> bool:
    """Runs until the count-th write to the state or the journal, which is torn; whether it came to that."""
    left = [count]
    write, replace = band_module.write_at, os.replace

    def torn_write(file, at, data):
        left[0] -= 1
        if left[0] == 0:
            write(file, at, data[: len(data) // 3])
            raise Killed
        return write(file, at, data)

    def torn_replace(*paths):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(band_module, "write_at", torn_write)
        patch.setattr(os, "replace", torn_replace)
        try:
            canvas.go()
        except Killed:
            canvas.band.close()
            return True
    return False


@pytest.mark.parametrize(
    ("rule", "strip_rows", "ahead"),
    [("torus", 3, False), ("alive mask, reach 3, zero padding", 3, False), ("torus", 2, True)],
)
def test_a_run_goes_on_after_a_kill_at_any_write(tmp_path, monkeypatch, rule, strip_rows, ahead):
    nca, path = automaton(RULES[rule]), tmp_path / "x.png"
    expected, cut = rolled_out(nca, 7, 5, 4), replace(plan(nca, strip_rows, 2, False), ahead=ahead)
    count = resumed = 0
    while True:
        count += 1
        canvas = Canvas(scene(nca, 7, 5, 4), path=path, plan=cut, resume=False)
        if not killed_at(monkeypatch, count, canvas):
            break
        if not journal_path(path).exists():  # the start was not written yet
            continue
        canvas = Canvas(scene(nca, 7, 5, 4), path=path, resume=True)
        if killed_at(monkeypatch, 5, canvas):  # and once more
            canvas = Canvas(scene(nca, 7, 5, 4), path=path, resume=True)
        resumed += 1
        with canvas:
            canvas.go()
            assert torch.equal(canvas.rows(0, 7), expected), count
    with canvas:
        pass
    assert resumed > 30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_run_that_is_killed_while_it_tidies_up_can_be_gone_on_with(tmp_path, monkeypatch, count):
    """At any of its removals: a journal whose state is gone would be of no use, and in the way."""
    nca, path, left = automaton(RULES["torus"]), tmp_path / "x.png", [count]
    expected, cut, unlink = rolled_out(nca, 7, 5, 4), plan(nca, 3, 2, False), Path.unlink

    def killed(self, *arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        unlink(self, *arguments, **options)

    first = Canvas(scene(nca, 7, 5, 4), path=path, plan=cut, resume=False)
    with monkeypatch.context() as patch, pytest.raises(Killed), first as canvas:
        canvas.go()
        patch.setattr(Path, "unlink", killed)
    resume = journal_path(path).exists()
    with Canvas(scene(nca, 7, 5, 4), path=path, plan=None if resume else cut, resume=resume) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 7), expected)
    assert list(tmp_path.iterdir()) == []


COMMAND = "render {model} --height 96 --width 64 --steps {steps} --resumable --steps-per-pass 4 --out {out}"


def test_a_process_that_is_killed_is_resumed_by_another(tmp_path):
    nca = automaton({})
    with torch.no_grad():
        nca.layers[1].weight.mul_(0.01)  # so that it does not blow up in so many steps
    model = nca.save_pretrained(tmp_path / "model")
    out, steps = tmp_path / "x.safetensors", 400
    words = COMMAND.format(model=model, steps=steps, out=tmp_path / "x.png").split() + ["--save-state", str(out)]
    process, deadline = fresh.Process(["-m", "nca_fast", *words]), time.monotonic() + 60
    while not journal_path(tmp_path / "x.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was faster than expected: give it more steps"
    assert cli.main([*words, "--resume"]) == 0
    state = StateFile(out)
    assert state.step == steps
    with torch.no_grad():
        expected = nca(nca.initial_state(1, 96, 64), steps, seed=0)[0]
    assert torch.equal(state.rows(0, 96), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.png", "x.safetensors"]


def test_a_resumed_run_keeps_its_settings(tmp_path):
    nca, path = automaton({}), tmp_path / "x.png"
    begun = scene(nca, 9, 7, 8, CanvasConfig(resumable=True, steps_per_pass=2))
    with pytest.raises(KeyboardInterrupt), Canvas(begun, path=path, resume=False) as canvas:
        canvas.go(2)
        raise KeyboardInterrupt
    for change, message in (
        ({"steps": 9}, r"steps \(was 8, now 9\)"),
        ({"seed": 1}, r"seed \(was 4, now 1\)"),
        ({"nca": automaton({"fire_rate": 0.25})}, "rules"),
        ({"config": CanvasConfig(resumable=True)}, r"steps_per_pass \(was 2, now None\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Canvas(replace(begun, **change), path=path, resume=True)
    with pytest.raises(FileExistsError, match="must not have an interrupted run"):
        Canvas(begun, path=path, resume=False)
    with Canvas(begun, path=path, resume=True) as canvas:
        assert canvas.done == 2
        canvas.go()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="a run to resume must have left"):
        Canvas(begun, path=path, resume=True)


class WorstStreams:
    """Copies that make the most of what they are allowed: uploads happen at once, unless they wait for something that
    has not happened; downloads when somebody waits for them. Host memory may be used again when the host has waited."""

    device = torch.device("cpu")

    def __init__(self):
        self.copies = {}  # the last one from or to each piece of host memory

    def host(self, numbers):
        return torch.empty(numbers)

    def upload(self, target, source, after):
        event = self._copy(target, source, source, after)
        if after is None or after["done"]:
            self._happen(event)
        return event

    def download(self, target, source):
        return self._copy(target, source, target, None)

    def work_after(self, event):
        self._happen(event)

    def wait(self, event):
        self._happen(event)
        event["waited"] = True

    def _copy(self, target, source, host, after):
        before = self.copies.get(host.data_ptr())
        assert before is None or before["waited"], "host memory is used again while a copy may be on its way"
        event = {"done": False, "waited": False, "copy": lambda: target.copy_(source), "after": after}
        self.copies[host.data_ptr()] = event
        return event

    def _happen(self, event):
        if event["done"]:
            return
        if event["after"] is not None:
            self._happen(event["after"])
        event["copy"]()
        event["done"] = True


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("strip_rows", [1, 4, 5, 13])
@pytest.mark.parametrize("rule", ["torus", "zero padding"])
def test_staged_strips_are_the_canvas_in_one_piece(tmp_path, poisoned, rule, strip_rows, in_memory):
    nca = automaton(RULES[rule])
    cut = plan(nca, strip_rows, 2, in_memory)
    with Canvas(scene(nca, 13, 11, 7), path=tmp_path / "x.png", plan=cut, streams=WorstStreams()) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 13), rolled_out(nca, 13, 11, 7))


def test_a_band_takes_what_is_above_and_below_from_its_neighbours():
    nca = automaton({"alive_channel": 3})
    colony = Colony(scene(nca, 12, 9, 4))
    state = nca.initial_state(1, 12, 9, seed=4)[0]
    bands = [Band(6, 6, 9, halo=4, shift=4) for _ in range(2)]
    for band, rows in zip(bands, state.split(6, 1), strict=True):
        band.write(0, rows)
    waited = []

    class Other(Alone):
        def __init__(self, band, rows):
            super().__init__(True, rows)
            self.band = band

        def exchange(self, band, halo, meanwhile):
            meanwhile()
            return self.band.read(6 - halo, halo), self.band.read(0, halo)

        def barrier(self):
            waited.append(self.band)

    cut, others = Plan(2, 2, 4, True, False), [Other(bands[1], (0, 6)), Other(bands[0], (6, 12))]
    passes = [strips.Passes(colony, bands[i], cut, Position(), neighbours=others[i]) for i in range(2)]
    # Two processes exchange at the same moment; here the second one's halo is read before the first one computes.
    for until in (2, 4):
        above, below = passes[1].neighbours.exchange(bands[1], 4, lambda: None)
        passes[0].run(until)
        passes[1].neighbours.exchange = lambda *_, rows=(above, below): rows
        passes[1].run(until)
        del passes[1].neighbours.exchange
    assert len(waited) == 4
    got = torch.cat([band.read(0, 6) for band in bands], 1)
    assert torch.equal(got, rolled_out(nca, 12, 9, 4))


@pytest.mark.parametrize("streams", [None, WorstStreams()])
def test_the_second_strip_is_computed_while_the_halo_is_on_its_way(tmp_path, monkeypatch, streams):
    nca = automaton({})
    cut = replace(plan(nca, 4, 2, False), ahead=True)
    events, write_next = [], Band.write_next
    monkeypatch.setattr(Band, "write_next", lambda band, first, x: (events.append(first), write_next(band, first, x)))

    class Slow(Alone):
        def exchange(self, band, halo, meanwhile):
            events.append("sent")
            super().exchange(band, halo, meanwhile)
            events.append("received")
            return super().exchange(band, halo, lambda: None)

    options = {"plan": cut, "streams": streams, "neighbours": Slow(True, (0, 14))}
    with Canvas(scene(nca, 14, 11, 5), path=tmp_path / "x.png", **options) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 14), rolled_out(nca, 14, 11, 5))
    assert events == ["sent", 4, "received", 0, 8, 12] * 3


@pytest.mark.parametrize(
    ("height", "strip_rows", "steps_per_pass"),
    [
        (13, 4, 2),
        (8, 4, 2),  # the second strip is the last, and needs the halo below
        (9, 1, 3),  # and here the one above
        (12, 12, 3),  # there is no second strip
    ],
)
@pytest.mark.parametrize("rule", ["torus", "zero padding"])
def test_room_for_the_second_strip_changes_nothing(tmp_path, poisoned, rule, height, strip_rows, steps_per_pass):
    nca = automaton(RULES[rule])
    cut = replace(plan(nca, strip_rows, steps_per_pass, False), ahead=True)
    with Canvas(scene(nca, height, 19, 8), path=tmp_path / "x.png", plan=cut) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, height), rolled_out(nca, height, 19, 8))


@pytest.mark.parametrize("rule", ["torus", "zero padding"])
def test_a_band_that_is_one_strip_gets_its_halo_before_every_pass(rule):
    nca = automaton(RULES[rule])
    alone = Alone(rule == "torus", (0, 13))
    with Canvas(scene(nca, 13, 19, 8), plan=Plan(13, 3, 3, True, True), neighbours=alone) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 13), rolled_out(nca, 13, 19, 8))
        assert torch.equal(canvas.rows(5, 2), rolled_out(nca, 13, 19, 8)[:, 5:7])


def test_runs_without_room_for_a_state_beside_them_are_whole(monkeypatch):
    """A canvas that memory holds twice is never copied."""
    nca = automaton({})
    with Canvas(scene(nca, 12, 9, 5, CanvasConfig(memory="1MiB"))) as canvas:
        canvas.go(2)
        monkeypatch.setattr(Band, "read", None)
        monkeypatch.setattr(Band, "write_next", None)
        canvas.go()
        state = canvas.state()
    assert torch.equal(state[0], rolled_out(nca, 12, 9, 5))


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSPC])
def test_a_file_system_that_cannot_reserve(tmp_path, monkeypatch, error):
    """Some say so of posix_fallocate (ZFS, FUSE, NFS): the file then grows as it is written. A full disk is another."""

    def refuse(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with open(tmp_path / "a", "wb+") as file:
        if error == errno.ENOSPC:
            with pytest.raises(OSError, match="No space left"):
                band_module._reserve(file, 1000)
        else:
            band_module._reserve(file, 1000)
            assert os.fstat(file.fileno()).st_size == 1000
