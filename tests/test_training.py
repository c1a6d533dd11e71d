"""Training: the loop's parts against their formulas; runs interrupted in every way end with the same bits."""

import contextlib
import json
import math
import os
import resource
import signal
import time
from dataclasses import replace

import fresh
import pytest
import torch
from runs import assert_same_run, logged
from trainings import interrupted_after, killed_while_writing, train_texture

import nca_fast
from nca_fast import checkpoint, cli
from nca_fast.losses import regularizers
from nca_fast.media.images import load_image, save_image
from nca_fast.systems.texture import Texture, TextureConfig
from nca_fast.training import descent, listeners, loop, run_folder, settings
from nca_fast.training.pool import Pool, PoolStep

TINY = TextureConfig(
    image_size=16,
    iterations=6,
    pool_size=6,
    batch_size=2,
    reseed_every=3,
    steps_min=2,
    steps_max=5,
    lr_milestones=(2, 4),
    checkpoint_every=1,
    preview_every=2,
    picture_steps=4,
    video_steps=0,
    backend="reference",  # the kernel's compilation has its own tests
    threads=1,
)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    save_image(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5)), path)
    return str(path)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, picture):
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train_texture(TINY, picture, folder, progress=False)
    return folder


# The parts of the loop


def test_derived_seeds():
    assert loop.derived_seed(0, "fire", 0) == loop.derived_seed(0, "fire", 0)
    seeds = {loop.derived_seed(s, p, i) for s in range(3) for p in ("fire", "pool") for i in range(50)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A run must resume under another version of nca_fast, so the function may never change.
    assert loop.derived_seed(1, "fire", 2) == 9133142798038830118


@pytest.mark.parametrize(
    ("iterations", "milestones"),
    [(5000, (2500, 4000)), (300, (150, 240)), (2, (1,)), (1, (1,))],
)
def test_default_milestones(iterations, milestones):
    assert settings.default_milestones(iterations) == milestones


def test_learning_rate_is_that_of_multisteplr():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5], 0.3)
    for iteration in range(8):
        # Two roundings: torch multiplies by gamma at each milestone, we raise it to a power.
        wanted = pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-14)
        config = TextureConfig(learning_rate=0.1, lr_milestones=(3, 5), lr_gamma=0.3)
        assert config.rate_at(iteration) == wanted
        optimizer.step()
        scheduler.step()


def test_learning_rate_falls_to_zero_in_a_cooldown_and_again_before_a_later_end():
    config = TextureConfig(iterations=50, learning_rate=1.0, lr_milestones=(45,), lr_gamma=0.5, lr_cooldown=0.2)
    rates = [config.rate_at(iteration) for iteration in (39, 40, 44, 45, 49)]
    assert rates == pytest.approx(
        [1, 1, 0.6, 0.25, 0.05], rel=1e-12
    )  # of the last ten iterations all, 6, 5 and 1 are left
    assert replace(config, iterations=100).rate_at(49) == replace(config, lr_cooldown=0.0).rate_at(49) == 0.5
    # Beyond the end: half of the iterations before a cooldown, which takes the other half.
    assert [config.rate_beyond(left) for left in (1, 0.5, 0.25)] == [0.5, 0.5, 0.25]
    assert replace(config, lr_cooldown=0.0).rate_beyond(0.25) == 0.5


def test_normalize_gradients():
    parameters = [
        torch.nn.Parameter(torch.zeros(4)),
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    parameters[0].grad = torch.tensor([3.0, 0.0, 4.0, 0.0])
    parameters[1].grad = torch.zeros(2)
    descent.normalize_gradients(parameters)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0, 0.8, 0.0]))
    assert parameters[1].grad.tolist() == [0, 0]
    assert parameters[2].grad is None


@pytest.fixture
def small_run():
    torch.manual_seed(0)
    nca = nca_fast.NCA(nca_fast.Rule(channels=4, hidden=(8,)), start="noise")
    return SmallRun(nca, Pool(nca.initial_state(5, 6, 7, seed=1)))


class SmallRun(loop.TrainingRun):
    """A run with its pool."""

    def __init__(self, nca, pool, fused=False):
        super().__init__(nca, torch.optim.Adam(nca.parameters(), lr=1e-3, fused=fused))
        self.pool = pool

    def all_tensors(self):
        return self.tensors() | {"pool": self.pool.states}


def train_small(run, iterations, objective=None, rate=1e-2, listeners=(), moments=(), delay=None, **options):
    nca = run.model

    def start(count, seed):
        return nca.initial_state(count, 6, 7, seed=seed)

    objective = objective or (lambda states, generator: {"power": states.square().sum()})
    step = PoolStep(nca, run.pool, objective, start, 3, 2, lambda planned: (2, 4), backend="reference", **options)
    plan = loop.Plan(iterations, lambda planned: rate)
    adjust = descent.normalize_gradients
    return loop.train(run, step, plan, adjust_gradients=adjust, listeners=listeners, moments=moments, delay=delay)


def test_train_reports_each_iteration(small_run):
    reports = []
    assert train_small(small_run, 20, listeners=[reports.append])
    assert [report.iteration for report in reports] == list(range(1, 21))
    assert {report.steps for report in reports} == {2, 3, 4}
    assert all(report.cell_steps == 2 * 6 * 7 * report.steps for report in reports)
    assert all(report.loss == report.terms["power"] for report in reports)
    assert reports[-1].loss < reports[0].loss


def test_reseeding_replaces_one_state(small_run):
    # Untrained, the automaton leaves its state alone, and learning rate 0 keeps it untrained.
    before = small_run.pool.states.clone()
    train_small(small_run, 1, reseed_every=1, rate=0.0)
    changed = [i for i in range(5) if not torch.equal(before[i], small_run.pool.states[i])]
    start = small_run.model.initial_state(1, 6, 7, seed=loop.derived_seed(3, "start", 0))[0]
    assert len(changed) == 1
    assert torch.equal(small_run.pool.states[changed[0]], start)


def test_a_state_beyond_the_limit_starts_afresh(small_run):
    # As train draws: the number of steps comes first from the generator.
    draw = loop.derived_generator(3, "pool", 0)
    torch.randint(2, 5, (), generator=draw)
    indices, _ = small_run.pool.sample(2, draw)
    runaway, healthy = indices.tolist()
    small_run.pool.states[runaway, 2, 3, 4] = 5.5
    before = small_run.pool.states.clone()
    # Untrained, the automaton leaves its state alone.
    train_small(small_run, 1, rate=0.0, state_limit=5.0)
    fresh = small_run.model.initial_state(2, 6, 7, seed=loop.derived_seed(3, "restart", 0))
    assert torch.equal(small_run.pool.states[runaway], fresh[0])
    assert torch.equal(small_run.pool.states[healthy], before[healthy])


def test_each_iteration_draws_anew(small_run):
    drawn, masks = [], []

    def objective(states, generator):
        drawn.append(torch.rand((), generator=generator).item())
        return {"loss": states.sum()}

    original = small_run.model.forward

    def forward(states, **options):
        masks.append(options["seed"])
        return original(states, **options)

    small_run.model.forward = forward
    train_small(small_run, 5, objective)
    assert len(set(drawn)) == len(set(masks)) == 5


def test_other_use_of_random_numbers_changes_nothing(small_run):
    def objective(states, generator):
        return {"loss": (states * torch.randn(states.shape, generator=generator)).sum()}

    twin = SmallRun(nca_fast.NCA(small_run.model.rule, start="noise"), Pool(small_run.pool.states.clone()))
    twin.model.load_state_dict(small_run.model.state_dict())
    train_small(small_run, 4, objective)
    train_small(twin, 4, objective, listeners=[lambda report: torch.rand(7)])
    for name, weight in small_run.model.state_dict().items():
        assert torch.equal(weight, twin.model.state_dict()[name])


def test_losses_that_stay_not_finite_end_the_run_untouched(small_run):
    def objective(states, generator):
        return {"loss": states.sum() * (float("nan") if small_run.iteration >= 2 else 1.0)}

    kept = {}

    def keep(report):
        if report.iteration == 2:
            kept.update({name: tensor.clone() for name, tensor in small_run.all_tensors().items()})

    with pytest.raises(FloatingPointError, match="loss must stay finite, but it is nan in iteration 3, and so in the"):
        train_small(small_run, 2 + descent.SKIPPED, objective, listeners=[keep])
    assert small_run.iteration == 2
    for name, tensor in small_run.all_tensors().items():
        assert torch.equal(tensor, kept[name]), name


def test_ctrl_c_finishes_the_iteration(small_run):
    def objective(states, generator):
        if small_run.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return {"loss": states.sum()}

    reports = []
    handler = signal.getsignal(signal.SIGINT)
    assert not train_small(small_run, 5, objective, listeners=[reports.append])
    assert small_run.iteration == len(reports) == 2
    assert signal.getsignal(signal.SIGINT) is handler


def test_second_ctrl_c_interrupts_at_once(small_run):
    def objective(states, generator):
        deferred = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is deferred:  # two signals that wait are one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
        return {"loss": states.sum()}

    # A shell that starts pytest in the background has it ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_small(small_run, 5, objective)
    finally:
        signal.signal(signal.SIGINT, before)
    assert small_run.iteration == 0


def report(iteration):
    return loop.Report(iteration, iteration, 1.5, {"style": 1.5}, 1e-3, 4, 1000, 0.01)


def test_log_forgets_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    with listeners.JsonLog(path) as log:
        for iteration in (1, 2, 3, 4):
            log(report(iteration))
    path.write_text(path.read_text() + '{"iteration": 5, "lo')  # torn by a kill
    with listeners.JsonLog(path, first=3) as log:
        log(report(4))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["cell_steps_per_second"] == 100_000


@pytest.mark.parametrize("ticks", [(5.0,) * 99, range(99, 0, -1)], ids=["stands still", "goes back"])
def test_a_clock_need_not_go_on(small_run, tmp_path, monkeypatch, ticks):
    """Windows has coarse ones. What is saved can be read again: seconds are at least 0."""
    ticks = iter(ticks)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    reports = []
    with listeners.JsonLog(tmp_path / "log.jsonl") as log, listeners.ProgressBar(2, shown=False) as bar:
        watching = {"listeners": [log, bar, reports.append], "moments": [listeners.Checkpoints(pytest.fail, None, 60)]}
        train_small(small_run, 2, **watching)
    assert [(report.seconds, report.speed) for report in reports] == [(0, 0), (0, 0)] and small_run.seconds == 0
    assert all(json.loads(line)["cell_steps_per_second"] == 0 for line in (tmp_path / "log.jsonl").open())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xcf", r"line 2 of .*log.jsonl must be JSON, but is not.* Move the log away"),
        (b'{"iteration": "2"}', "'iteration' of line 2 of .*log.jsonl must be an integer"),
        (b"{}", "line 2 of .*log.jsonl must have the field 'iteration'"),
        (b"[" * 3000, "line 2 of .*log.jsonl must be JSON, but is nested too deeply"),
    ],
)
def test_a_damaged_line_within_the_log_is_named(tmp_path, line, message):
    """Only the last line can be torn by a kill; what comes after another one would be lost without a word."""
    path, whole = tmp_path / "log.jsonl", b'{"iteration": 1}'
    path.write_bytes(b"\n".join([whole, line, whole]) + b"\n")
    with pytest.raises(ValueError, match=message):
        listeners.JsonLog(path, first=3)
    path.write_bytes(whole + b"\n" + line)
    with listeners.JsonLog(path, first=3):
        assert path.read_bytes() == whole + b"\n"


def test_in_so_many_minutes_the_bar_tells_what_is_done_from_what_is_over(capsys):
    done = listeners.Report(30, 80, 1.5, {}, 1e-3, 4, 100, 0.5)  # 30 iterations in 80 hundredths of the time
    for timed, said in ((True, "80%|"), (False, "80/100")):
        with listeners.ProgressBar(100, timed=timed, cells=3) as bar:
            bar(done)
            bar.bar.refresh()
        shown = capsys.readouterr().err
        assert said in shown and ("30 iterations, loss 0.5" in shown) == timed and ("80/100" in shown) != timed


@pytest.mark.parametrize("timed", [True, False])
def test_the_bar_begins_anew_beyond_the_plan(capsys, timed):
    """There a report has its iteration as its place, which is far before the end of a plan of minutes."""
    with listeners.ProgressBar(3000, timed=timed) as bar:
        bar(listeners.Report(140, 3000, 1.0, {}, 1e-3, 64, 1, 1.0))
        capsys.readouterr()
        bar.go_on(140, 150)
        bar(listeners.Report(147, 147, 1.0, {}, 1e-3, 64, 1, 1.0))
        bar.bar.refresh()
        shown = capsys.readouterr().err
    assert "98%" in shown or "147/150" in shown
    assert "3000" not in shown and bar.bar.initial == 140


def test_checkpoints_come_by_iterations_or_by_time():
    saved = []
    by_number = listeners.Checkpoints(lambda: saved.append("number"), every=3, seconds=1e9)
    assert [iteration for iteration in range(1, 8) if by_number.due(iteration, iteration)] == [3, 6]
    by_time = listeners.Checkpoints(lambda: saved.append("time"), every=None, seconds=60)
    assert not by_time.due(1, 1)
    by_time.waited += 61
    assert by_time.due(1, 1)
    by_time()
    assert saved == ["time"] and not by_time.due(1, 1)


def test_preview_strip_puts_an_oblong_target_first(tmp_path):
    previews = iter([torch.zeros(3, 8, 8), torch.ones(3, 8, 8) / 2])
    target = torch.zeros(3, 4, 8)
    strip = listeners.PreviewStrip(tmp_path / "preview.png", [target], draw=lambda: next(previews), every=3)
    for iteration in range(1, 8):
        if strip.due(iteration, iteration):
            strip()
    assert strip.tensors()["previews"].shape == (2, 3, 8, 8)
    shown = load_image(tmp_path / "preview.png")
    assert shown.shape == (3, 8, 8 * 3 + 2 * 2)
    assert shown[:, 0, :8].min() == 1  # white above the target
    assert shown[:, 4, :8].max() == 0


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, but got 0"),
        ({"image_size": -128}, "image_size must be at least 16, but got -128"),
        ({"pool_size": 3, "batch_size": 4}, "batch_size must be at most pool_size=3, but got 4"),
        ({"steps_min": 65}, "steps_min must be at most steps_max=64, but got 65"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, but got nan"),
        ({"image_crop": 8}, "image_crop must be at least 16, but got 8"),
        ({"state_limit": 0.5}, "state_limit must be at least 1, but got 0.5"),
        ({"lr_cooldown": 1.5}, "lr_cooldown must be at most 1, but got 1.5"),
        ({"lr_cooldown": -0.5}, "lr_cooldown must be at least 0, but got -0.5"),
        ({"lr_gamma": 0.0}, "lr_gamma must be positive and finite, but got 0.0"),
        ({"overflow_weight": float("nan")}, "overflow_weight must be at least 0, but got nan"),
        ({"lr_milestones": (0,)}, "lr_milestones must be at least 1"),
        ({"loss": "l2"}, "loss must be one of"),
        ({"features": "resnet"}, "features must be one of"),
        ({"backend": "cuda"}, "backend must be one of"),
        ({"weights": "vgg.pth", "features": "random"}, "weights must go with features vgg16 or vgg19"),
        ({"loss": "gram", "projections": 8}, "projections must go with loss 'ot'"),
        ({"threads": 0}, "threads must be from 1 to 1024, but got 0"),
        ({"preview_every": 0}, "preview_every must be at least 1, but got 0"),
        ({"seed": -1}, "seed must be at least 0, but got -1"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        TextureConfig(**change)


# Whole runs


def test_run_writes_its_files(whole_run):
    names = {path.name for path in whole_run.iterdir()}
    assert names == {"texture.png", "preview.png", "model.safetensors", "training.safetensors", "log.jsonl"}
    assert load_image(whole_run / "texture.png").shape == (3, 64, 64)
    assert load_image(whole_run / "preview.png").shape == (3, 16, 4 * 16 + 3 * 2)
    facts = checkpoint.load_metadata(whole_run / "model.safetensors")["provenance"]
    assert facts["seed"] == 0
    assert facts["config"]["steps_max"] == 5
    nca = nca_fast.NCA.from_pretrained(whole_run)
    assert any(bool((weight != 0).any()) for weight in nca.layers[-1].parameters())


def test_same_seed_same_run(tmp_path, picture, whole_run):
    torch.rand(3)  # the global generator must not matter
    train_texture(TINY, picture, tmp_path, progress=False)
    assert_same_run(tmp_path, whole_run)


def test_other_seed_other_run(tmp_path, picture, whole_run):
    train_texture(replace(TINY, seed=1), picture, tmp_path, progress=False)
    assert logged(tmp_path) != logged(whole_run)


def test_raised_iterations_continue_the_run(tmp_path, picture, whole_run):
    train_texture(replace(TINY, iterations=3), picture, tmp_path, progress=False)
    # Without settings it is complete; what may change is what is given, and milestones not named are those of before.
    assert train_texture(None, None, tmp_path, resume=True, progress=False).iterations == 3
    later = replace(TINY, lr_milestones=None, checkpoint_every=None)
    assert train_texture(later, None, tmp_path, resume=True, progress=False).iterations == 6
    stored = checkpoint.load_metadata(tmp_path / "training.safetensors")["config"]
    assert stored["checkpoint_every"] is None and stored["lr_milestones"] == [2, 4]
    assert_same_run(tmp_path, whole_run)


def test_resuming_a_finished_run_draws_its_pictures_again(tmp_path, picture, whole_run):
    train_texture(TINY, picture, tmp_path, progress=False)
    (tmp_path / "texture.png").unlink()
    train_texture(TINY, picture, tmp_path, resume=True, progress=False)
    assert_same_run(tmp_path, whole_run)


def test_resume_begins_where_there_is_no_run(tmp_path, picture, whole_run):
    train_texture(TINY, picture, tmp_path / "new", resume=True, progress=False)
    assert_same_run(tmp_path / "new", whole_run)


def test_a_run_that_diverges_saves_the_state_before(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(descent, "SKIPPED", 2)
    monkeypatch.setattr(regularizers, "overflow", lambda x: x.sum() * (math.nan if len(losses) >= 4 else 0.0))
    losses, original = [], listeners.JsonLog.__call__
    monkeypatch.setattr(listeners.JsonLog, "__call__", lambda log, report: losses.append(original(log, report)))
    with pytest.raises(FloatingPointError, match="nan in iteration 5"):
        train_texture(replace(TINY, checkpoint_every=None), picture, tmp_path / "diverged", progress=False)
    assert checkpoint.load_metadata(tmp_path / "diverged" / "training.safetensors")["iteration"] == 4
    losses = []
    train_texture(replace(TINY, iterations=4, overflow_weight=0.0), picture, tmp_path / "whole", progress=False)
    for path in ("training.safetensors", "model.safetensors"):
        found, wanted = (checkpoint.load(tmp_path / run / path)[0] for run in ("diverged", "whole"))
        for name in wanted:
            assert torch.equal(found[name], wanted[name]), name


def test_minutes_end_a_run_that_can_go_on(tmp_path, picture, monkeypatch):
    seconds = iter(range(1000))
    monkeypatch.setattr(loop.Plan, "planned", lambda plan, i, t: 3 * max(next(seconds) - 1, 0))
    result = train_texture(replace(TINY, minutes=9 / 60), picture, tmp_path, progress=False)
    assert result.iterations == 2 and (tmp_path / "texture.png").exists()
    monkeypatch.undo()
    rates = [line["learning_rate"] for line in logged(tmp_path)]
    assert rates == pytest.approx([TINY.learning_rate, TINY.learning_rate * TINY.lr_gamma])  # half of the time is gone
    assert load_image(tmp_path / "preview.png").shape[2] == 3 * 16 + 2 * 2  # at 3 and 6 of the plan's six iterations
    monkeypatch.setattr(loop.Plan, "planned", lambda plan, i, t: 6 if t > 0 else i)
    assert train_texture(None, None, tmp_path, resume=True, progress=False).iterations == 2  # its time is over
    monkeypatch.setattr(loop.Plan, "planned", lambda plan, i, t: 3 * i)
    longer = replace(
        run_folder.stored_config(Texture, *checkpoint.load(tmp_path / "training.safetensors")[1:], tmp_path)
    )
    later = train_texture(replace(longer, minutes=18 / 60), None, tmp_path, resume=True, progress=False)
    assert later.iterations == 4  # of a plan that is twice as long, in which the past has its place
    assert [line["planned"] for line in logged(tmp_path)] == [3, 6, 9, 12]
    assert [line["learning_rate"] for line in logged(tmp_path)][:2] == pytest.approx(rates)
    with pytest.raises(ValueError, match="iterations must be left out, because the run in .* goes by minutes"):
        train_texture(replace(longer, iterations=99), None, tmp_path, resume=True, progress=False)


def test_a_run_of_iterations_keeps_to_them(tmp_path, picture):
    train_texture(replace(TINY, iterations=1), picture, tmp_path, progress=False)
    with pytest.raises(ValueError, match="minutes must be left out, because the run in .* goes by iterations"):
        train_texture(replace(TINY, minutes=1.0), None, tmp_path, resume=True, progress=False)


def test_ctrl_c_saves_and_the_run_resumes(tmp_path, picture, whole_run, monkeypatch):
    interrupted_after(4, monkeypatch)
    config = replace(TINY, checkpoint_every=None)
    with pytest.raises(KeyboardInterrupt):
        train_texture(config, picture, tmp_path, progress=False)
    monkeypatch.undo()
    assert checkpoint.load_metadata(tmp_path / "training.safetensors")["iteration"] == 4
    train_texture(TINY, picture, tmp_path, resume=True, progress=False)
    assert_same_run(tmp_path, whole_run)


def test_runs_killed_while_writing_resume(tmp_path, picture, whole_run):
    # The seventh model is that of the last iteration, whose training was saved before.
    moments = [("training.safetensors", 1), ("training.safetensors", 4), ("model.safetensors", 4), ("preview.png", 2)]
    moments.append(("model.safetensors", 7))
    folders = [tmp_path / f"{name} {version}" for name, version in moments]
    calls = [f"train_texture({TINY!r}, {picture!r}, {str(folder)!r})" for folder in folders]
    killed_while_writing([(*moment, call) for moment, call in zip(moments, calls, strict=True)])
    for folder in folders:
        assert list(folder.glob(".*.tmp.*")), folder
        assert not (folder / "texture.png").exists(), folder
        train_texture(TINY, picture, folder, resume=True, progress=False)
        assert_same_run(folder, whole_run)


def test_command_killed_in_mid_run_resumes(tmp_path, picture):
    """SIGKILL from outside, at a moment that nobody chose; both parts through the command line, on the C++ kernel."""
    options = "--image-size 16 --iterations 60 --pool-size 6 --batch-size 2 --steps-min 2 --steps-max 5 --threads 1"
    options += " --features random --checkpoint-every 7 --picture-steps 4 --video-steps 0 --backend cpu"
    words = ["texture", "--out", str(tmp_path / "killed")]
    killed = fresh.Process(["-m", "nca_fast", *words, picture, *options.split()])
    log = tmp_path / "killed" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > 17) and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert cli.main([*words, "--resume"]) == 0
    metadata = checkpoint.load_metadata(tmp_path / "killed" / "training.safetensors")
    config = run_folder.stored_config(Texture, metadata, tmp_path)
    train_texture(config, picture, tmp_path / "whole", progress=False)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


# What is refused


def test_folder_with_a_run_is_refused(whole_run, picture):
    before = (whole_run / "training.safetensors").read_bytes()
    with pytest.raises(
        FileExistsError, match=r"must not hold another run, but it does\. Continue that one with --resume"
    ):
        train_texture(TINY, picture, whole_run, progress=False)
    assert (whole_run / "training.safetensors").read_bytes() == before


@pytest.mark.parametrize("there", [True, False], ids=["there", "new"])
@pytest.mark.parametrize("resume", [False, True])
def test_two_trainings_never_share_a_folder(tmp_path, picture, monkeypatch, there, resume):
    """Not even where both saw it empty: the later one says so, and the other's files stay as they are."""
    out, held = tmp_path / "run", contextlib.ExitStack()

    def meanwhile(folder=out):
        folder.mkdir()
        held.enter_context(run_folder.held(folder))
        return folder

    if there:
        meanwhile()
    else:
        monkeypatch.setattr("nca_fast.training.session.check_writable", meanwhile)
    with held, pytest.raises(FileExistsError, match="must be free, but another process trains into it now"):
        train_texture(TINY, picture, out, resume=resume, progress=False)
    assert not list(out.iterdir())


def test_folder_with_a_model_is_refused(tmp_path, picture):
    nca_fast.NCA.preset("texture").save_pretrained(tmp_path)
    with pytest.raises(FileExistsError, match="must not hold another model"):
        train_texture(TINY, picture, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["preview.png", "log.jsonl", "texture.png", "texture.mp4", "pictures.safetensors"])
def test_files_of_others_with_names_of_a_run_are_left_alone(tmp_path, picture, name, resume):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"would replace, but has {name}"):
        train_texture(TINY, picture, tmp_path, resume=resume, progress=False)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, picture):
    checkpoint.save(tmp_path / "pictures.safetensors", {"first": torch.zeros(3, 2, 2)}, {})
    assert run_folder.open_run(tmp_path, False, Texture.files) is None


DAMAGE = {  # of the tensors of a finished run -> what is said
    "optimizer.layers.0.weight.exp_avg_sq": "must hold 'optimizer.layers.0.weight.exp_avg_sq', but does not",
    "optimizer.layers.1.weight.step": "must hold 'optimizer.layers.1.weight.step'",
    "pool": "must hold 'pool'",
    "model.layers.0.bias": "must hold 'model.layers.0.bias'",
    "target": "must hold 'target'",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("way", ["renamed", "other shape", "other kind"])
def test_damaged_tensors_of_a_run_are_named(tmp_path, whole_run, name, way):
    tensors, metadata = checkpoint.load(whole_run / "training.safetensors")
    changed = dict(tensors)
    if way == "renamed":
        changed[f"{name}_"] = changed.pop(name)
        message = DAMAGE[name]
    else:
        changed[name] = tensors[name].flatten()[:0] if way == "other shape" else tensors[name].to(torch.int32)
        message = f"tensor '{name}' of .*training.safetensors must be .* in floating point, but is"
    checkpoint.save(tmp_path / "training.safetensors", changed, metadata)
    with pytest.raises(ValueError, match=message):
        train_texture(None, None, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iteration": -1}, "'iteration' of .*training.safetensors must be at least 0, but is -1"),
        ({"iteration": True}, "'iteration' of .*training.safetensors must be an integer"),
        ({"seconds": "x"}, "'seconds' of .*training.safetensors must be a finite number"),
        ({"config": []}, "'config' of the run in .* must be a JSON object"),
        ({"config": {"pool_size": "6"}}, "'pool_size' of 'config' of the run in .* must be an integer"),
        ({"config": {"features": 1}}, "'features' of 'config' of the run in .* must be one of"),
        ({"config": {"pool_size": 0}}, "'config' of the run in .* cannot be used: pool_size must be at least 1"),
        ({"config": {"none": 0}}, "must have settings of TextureConfig, but it has none"),
        ({"system": "grow"}, "must be one of nca-fast texture, but it is one of nca-fast grow"),
    ],
)
def test_damaged_facts_of_a_run_are_named(tmp_path, whole_run, change, message):
    tensors, metadata = checkpoint.load(whole_run / "training.safetensors")
    if isinstance(change.get("config"), dict):
        change = {"config": metadata["config"] | change["config"]}
    checkpoint.save(tmp_path / "training.safetensors", tensors, metadata | change)
    with pytest.raises(ValueError, match=message):
        train_texture(None, None, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 3e-3}, r"must keep its settings, .*: learning_rate \(was 0.004, now 0.003\)"),
        ({"seed": 4, "batch_size": 3}, r"batch_size \(was 2, now 3\), seed \(was 0, now 4\)"),
        ({"iterations": 5}, "iterations must be at least the 6 done, but got 5"),
    ],
)
def test_changed_settings_are_refused(whole_run, change, message):
    with pytest.raises(ValueError, match=message):
        train_texture(replace(TINY, **change), None, whole_run, resume=True, progress=False)


def test_other_image_is_refused(whole_run):
    with pytest.raises(ValueError, match="image must be that of the run"):
        train_texture(TINY, torch.zeros(3, 16, 16), whole_run, resume=True, progress=False)


def cropped_target(tmp_path, image, **change):
    config = replace(TINY, iterations=1, **change)
    train_texture(config, image, tmp_path / "run", progress=False)
    return checkpoint.load(tmp_path / "run" / "training.safetensors")[0]["target"]


def test_image_crop_is_the_middle(tmp_path):
    image = torch.rand(3, 20, 25, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cropped_target(tmp_path, image, image_crop=16), image[:, 2:18, 4:20])


def test_image_crop_is_shrunk_to_the_canvas(tmp_path):
    image = torch.zeros(3, 80, 70)
    image[:, 8:72, 3:67] = torch.tensor([0.2, 0.5, 0.9])[:, None, None]  # the middle 64 x 64
    save_image(image, tmp_path / "picture.png")
    target = cropped_target(tmp_path, str(tmp_path / "picture.png"), image_crop=64)
    assert target.shape == (3, 16, 16)
    # The file holds bytes; nothing of the black border may show.
    wanted = (torch.tensor([0.2, 0.5, 0.9]) * 255).round()[:, None, None] / 255
    torch.testing.assert_close(target, wanted.expand_as(target), rtol=0, atol=1e-6)


def test_image_crop_beyond_the_image_is_refused(tmp_path, picture):
    with pytest.raises(ValueError, match="image_crop must be at most the 16 x 16 pixels of the image, but got 17"):
        train_texture(replace(TINY, image_crop=17), picture, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(3, 15, 16), (1, 16, 16), (16, 16)])
def test_images_of_wrong_shape_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="image must be"):
        train_texture(TINY, torch.zeros(shape), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_missing_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image must be given to begin a run"):
        train_texture(TINY, None, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_file_in_place_of_the_folder_is_refused(tmp_path, picture):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="must be writable"):
        train_texture(TINY, picture, tmp_path / "run", progress=False)


@contextlib.contextmanager
def full_disk(limit):
    """Writing more than `limit` bytes to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_reported_before_any_work(tmp_path, picture):
    with full_disk(10_000), pytest.raises(OSError, match=r"cannot write .*training.safetensors"):
        train_texture(TINY, picture, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_fills_up_leaves_a_run_that_resumes(tmp_path, picture, whole_run, monkeypatch):
    original = checkpoint.save

    def save(path, tensors, metadata):
        if metadata.get("iteration") == 4:
            with full_disk(10_000):
                original(path, tensors, metadata)
        original(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(OSError, match=r"cannot write .*training.safetensors"):
        train_texture(TINY, picture, tmp_path, progress=False)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    assert checkpoint.load_metadata(tmp_path / "training.safetensors")["iteration"] == 3
    train_texture(TINY, picture, tmp_path, resume=True, progress=False)
    assert_same_run(tmp_path, whole_run)


def test_damaged_checkpoint_is_refused(tmp_path, picture):
    train_texture(TINY, picture, tmp_path, progress=False)
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated"):
        train_texture(TINY, picture, tmp_path, resume=True, progress=False)


def test_a_run_that_begins_with_a_trained_model(tmp_path, picture):
    """Its first preview is what that model drew; it can be resumed, and remembers; another rule is refused."""
    train_texture(TINY, picture, tmp_path / "first", progress=False)
    config = replace(TINY, iterations=1, learning_rate=1e-30)
    train_texture(config, picture, tmp_path / "second", progress=False, init=tmp_path / "first")
    old, new = (nca_fast.NCA.from_pretrained(tmp_path / name) for name in ("first", "second"))
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, new.state_dict()[name]), name
    train_texture(replace(config, iterations=2), None, tmp_path / "second", progress=False, resume=True)
    facts = checkpoint.load_metadata(tmp_path / "second" / "model.safetensors")["provenance"]
    assert facts["init"] == str(tmp_path / "first") and facts["iterations"] == 2
    with pytest.raises(ValueError, match="init must have the rule of this training"):
        train_texture(
            replace(TINY, preset="clip"), picture, tmp_path / "third", progress=False, init=tmp_path / "first"
        )


def test_a_grey_texture_that_begins_with_colours_is_grey(tmp_path, picture):
    train_texture(TINY, picture, tmp_path / "coloured", progress=False)
    save_image(load_image(picture)[:1].expand(3, -1, -1), tmp_path / "grey.png")
    config = replace(TINY, iterations=2)
    train_texture(config, tmp_path / "grey.png", tmp_path / "run", progress=False, init=tmp_path / "coloured")
    drawn = load_image(tmp_path / "run" / "texture.png")
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2]) and drawn[0].std() > 0


def test_ctrl_c_leaves_the_picture_as_it_is_now(tmp_path, picture, monkeypatch, capsys):
    """The still one, at once; the film, which takes longer, is for the end."""
    interrupted_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="texture.png shows what it has learned so far"):
        train_texture(replace(TINY, video_steps=3), picture, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "texture.png").exists() and not (tmp_path / "run" / "texture.mp4").exists()


def test_nothing_long_that_nobody_asked_for(tmp_path, picture):
    """A film of 1890 steps is left out after one iteration, and the line says how to get it; one that is asked for is
    made."""
    result = train_texture(replace(TINY, iterations=1, video_steps=None), picture, tmp_path, progress=False)
    assert not (tmp_path / "texture.mp4").exists()
    assert any(line.startswith("texture.mp4 is left out") for line in result.notes)
    result = train_texture(replace(TINY, iterations=1, video_steps=2), None, tmp_path, progress=False, resume=True)
    assert (tmp_path / "texture.mp4").exists() and not any("left out" in line for line in result.notes)
    work = Texture(TextureConfig(features="random").resolved(), Texture.Sources(picture), None, tmp_path)
    assert work.film_steps(1890, 128 * 128, 2000) == 1890 and work.film_steps(1890, 128 * 128, 200) == 0
    assert work.film_steps(0, 1, 2000) == 0
