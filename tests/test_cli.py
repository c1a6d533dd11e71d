"""The command line: what it writes, what it prints, and one line for every mistake."""

import re
import shlex
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import nca_fast
from nca_fast import checkpoint, cli
from nca_fast.canvas.colony import Colony
from nca_fast.commands import report
from nca_fast.commands.again import again
from nca_fast.commands.parser import COMMANDS, joined, parse
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering import picture as rendering
from nca_fast.systems import TASKS
from nca_fast.training import session

TINY = "--image-size 16 --iterations 2 --pool-size 4 --batch-size 2 --steps-min 2 --steps-max 4 --threads 1 "
TINY += "--picture-steps 3 --video-steps 3 --backend reference"


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    nca = nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(8,)), start="noise", init_gain=0.3)
    return nca.save_pretrained(tmp_path / "model")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    save_image(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(5)), path)
    return path


def run(command, *paths):
    """Exit code of a command line; "{}" stands for paths."""
    return cli.main([str(paths[int(word[1])]) if re.fullmatch(r"\{\d\}", word) else word for word in command.split()])


def assert_one_line(captured, message):
    assert captured.err.startswith("nca-fast: error: ")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err
    assert captured.out == ""


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"nca-fast {nca_fast.__version__}\n"


@pytest.mark.parametrize("command", ["", "--help", "texture --help", "render --help"])
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit) as end:
        run(command)
    assert end.value.code == 0
    assert re.search(r"nca-fast (texture|render) \S+ .*--out \S+", capsys.readouterr().out)


def test_help_names_commands_as_they_are_typed_and_the_words_that_the_small_clip_knows(capsys):
    for command in ("--help", "clip --help"):
        with pytest.raises(SystemExit):
            run(command)
    shown = capsys.readouterr().out
    assert "vae fuse" in shown and "vae-fuse" not in shown and "zigzags" in shown


@pytest.mark.parametrize("system", TASKS)
def test_no_video_is_none_in_every_training(system, capsys):
    given = parse(joined([system, "what", "--video-steps", "7", "--no-video", "--iterations", "3", "--out", "x"]))
    assert given.config.video_steps == 0 and given.config.iterations == 3
    with pytest.raises(SystemExit):
        parse(joined([system, "--help-all"]))
    assert "--no-video: none." in " ".join(capsys.readouterr().out.split())


def test_texture_writes_and_resume_remembers(tmp_path, picture, capsys):
    out = tmp_path / "a run"
    assert run(f"texture {{0}} --out {{1}} {TINY}", picture, out) == 0
    printed = capsys.readouterr()
    names = ["texture.png", "texture.mp4", "preview.png", "model.safetensors", "log.jsonl", "training.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(name in printed.out for name in names)
    assert "cell-steps/s" in printed.out
    assert "Mcell-steps/s" in printed.err  # the progress bar
    assert load_image(out / "texture.png").shape == (3, 64, 64)
    facts = checkpoint.load_metadata(out / "model.safetensors")["provenance"]
    assert facts["command"].startswith("nca-fast texture ")
    assert facts["image"] == str(picture)

    assert run("texture --resume --out {0} --iterations 3", out) == 0
    assert re.search(r"^3 iterations, the last 1 in \d+ s, ", capsys.readouterr().out, re.MULTILINE)
    metadata = checkpoint.load_metadata(out / "training.safetensors")
    assert metadata["iteration"] == 3
    assert metadata["config"]["batch_size"] == 2
    capsys.readouterr()
    assert run("texture --resume --out {0} --learning-rate 0.1", out) == 2
    assert_one_line(capsys.readouterr(), r"--learning-rate \(was 0.004, now 0.1\)")
    assert run("texture {0} --out {1}", picture, out) == 2
    assert_one_line(capsys.readouterr(), "must not hold another run")


@pytest.mark.parametrize(
    "command",
    [name for name in COMMANDS if not name.startswith(("info", "check", "zoo", "completion", "web", "export"))],
)
def test_every_command_says_where_it_computes(capsys, command):
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help-all"])
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "--device TEXT" in shown and "auto (a GPU when there is one that" in shown
    assert "--precision {fp32,tf32,fp16,bf16}" in shown and "--threads INT" in shown
    assert "--backend {reference,convolutions,cpu,triton}" in shown


@pytest.mark.parametrize("options", ["--device cuda", "--device gpu", "--backend cpu --precision fp16"])
def test_a_device_that_there_is_not(tmp_path, picture, model, capsys, options):
    """Each command says it in one line, and leaves nothing."""
    out = tmp_path / "out.png"
    for command in (
        f"texture {{0}} --out {tmp_path / 'run'} {TINY}",
        f"render {{1}} --height 9 --width 9 --steps 2 --out {out}",
    ):
        assert run(f"{command} {options}", picture, model) == 2
        assert_one_line(capsys.readouterr(), "device|precision")
    assert not out.exists() and not list(tmp_path.glob("run/*"))


def test_ctrl_c_in_training_says_how_to_go_on(tmp_path, picture, capsys, monkeypatch):
    def interrupt(*args, **options):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "training.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run_training", interrupt)
    assert run(f"texture {{0}} --out {{1}} {TINY}", picture, tmp_path / "run") == 130
    remedy = f"go on with: nca-fast texture --out {tmp_path / 'run'} --resume"
    assert capsys.readouterr().err == f"nca-fast: interrupted; {remedy}\n"


def test_render_draws_the_last_state(tmp_path, model):
    out = tmp_path / "x.png"
    assert run("render {0} --height 12 --width 20 --steps 40 --seed 7 --zoom 2 --out {1}", model, out) == 0
    nca = nca_fast.NCA.from_pretrained(model)
    wanted = nca.to_rgb(nca(nca.initial_state(1, 12, 20, seed=7), steps=40, seed=7)).detach()[0]
    shown = load_image(out)
    assert shown.shape == (3, 24, 40)
    # A picture keeps 8 bits: half a level.
    torch.testing.assert_close(shown[:, ::2, ::2], wanted, rtol=0, atol=0.501 / 255)
    assert torch.equal(shown[:, ::2, ::2], shown[:, 1::2, 1::2])


@pytest.mark.parametrize(
    ("made", "options", "size"),
    [
        ({"system": "texture", "config": {"image_size": 8, "picture_steps": 7}}, "", (32, 32, 7)),
        ({"system": "texture", "config": {"image_size": 8}}, "--width 5 --steps 3", (5, 5, 3)),
        ({"system": "grow", "config": {"image_size": 8, "image_margin": 3}}, "", (56, 56, 200)),  # 4 pixels a cell
        ({"system": "grow", "config": {"image_size": 8}}, "--height 9 --width 6", (9, 6, 200)),
        ({"system": "texture", "side": 6, "steps": 5}, "--zoom 2", (48, 48, 5)),  # as in the zoo
        ({"config": {"image_size": "8", "picture_steps": -1}}, "--height 3", (3, 3, 256)),
        ({"config": {"image_size": 60000}}, "--steps 1", (1024, 1024, 1)),
        ({"config": []}, "--steps 2", (256, 256, 2)),
    ],
)
def test_render_knows_what_suits_a_model(tmp_path, made, options, size):
    nca = nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(8,)), start="noise", init_gain=0.3)
    model = nca.save_pretrained(tmp_path / "model", provenance=made)
    assert run(f"render {{0}} {options} --out {{1}}", model, tmp_path / "x.png") == 0
    height, width, steps = size
    assert load_image(tmp_path / "x.png").shape == (3, height, width)
    zoom = 4 if height == 56 else 2 if height == 48 else 1
    exact = f"--height {height // zoom} --width {width // zoom} --steps {steps} --zoom {zoom}"
    assert run(f"render {{0}} {exact} --out {{1}}", model, tmp_path / "y.png") == 0
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()


def test_what_is_proposed_keeps_what_was_typed(tmp_path, capsys):
    typed = ["render", "zoo:scales", "--grid=hex", "--zoom", "2", "--size", "8", "--steps", "3", "--save_state"]
    typed += [str(tmp_path / "last.safetensors"), "--resumable", "--out", str(tmp_path / "first one.png")]
    assert cli.main(typed) == 0
    lines = capsys.readouterr().out.rpartition("next: ")[2].splitlines()
    typed = parse(typed)
    kept = replace(typed, save_state=None, config=replace(typed.config, resumable=False))
    larger = replace(kept, size=None, height=8, width=16, seed=1, out=Path("large.png"))
    assert [parse(shlex.split(line)[1:]) for line in lines] == [larger, replace(kept, out=Path("film.mp4"))]


def test_again_leaves_out_all_values_of_an_option():
    command = "nca-fast render 'a b' --texture-to x y --soft 3 --texture_to=z w --height 4 --resume --width 4"
    spelled = again(command, COMMANDS["render"], texture_to=None, height=9, resume=None)
    assert spelled == "nca-fast render 'a b' --soft 3 --width 4 --height 9"


@pytest.mark.parametrize(("options", "frames"), [("", 33), ("--steps-per-frame 8", 5)])
def test_render_films(tmp_path, model, options, frames):
    out = tmp_path / "x.gif"
    assert run(f"render {{0}} --height 12 --width 20 --steps 36 {options} --out {{1}}", model.parent, out) == 0
    with Image.open(out) as film:
        assert film.n_frames == frames


def test_a_gpu_is_named(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr(report, "describe", lambda device: f"computing on {device}")
    options = "--height 4 --width 4 --steps 4 --device cpu --precision fp32 --backend reference"
    assert run(f"render {{0}} {options} --out {{1}}", model, tmp_path / "x.png") == 0
    assert capsys.readouterr().err.startswith("computing on cpu\n")


def test_a_picture_of_a_single_colour_gets_a_word(tmp_path, model):
    """As automata that have run away draw it, and those that learned for two iterations."""
    render = "render {0} --height 300 --width 7 --steps 1 --out {1}"
    plain = nca_fast.NCA(nca_fast.Rule(channels=5, hidden=(8,))).save_pretrained(tmp_path / "plain")
    with pytest.warns(UserWarning, match=r"x.tif shows a single colour: the automaton has run away, or has learned"):
        assert run(render, plain, tmp_path / "x.tif") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(render, model, tmp_path / "x.png") == 0


def test_same_command_same_file(tmp_path, model):
    for name in ("a", "b"):
        assert run("render {0} --height 12 --width 20 --steps 9 --out {1}", model, tmp_path / f"{name}.png") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--height -5 --width 4 --steps 4", "height must be at least 1, but got -5"),
        ("--height 4 --width 0 --steps 4", "width must be at least 1, but got 0"),
        ("--height 4 --width 4 --steps 0", "steps must be at least 1, but got 0"),
        ("--height 4 --width 4 --steps 4 --zoom 0", "zoom must be at least 1, but got 0"),
        ("--height 4 --width 4 --steps 99999999999", "steps must be at most 4294967296, but got 99999999999"),
        ("--height 4 --width 4 --steps 4 --fps 10", "--steps-per-frame and fps must go with a film"),
        ("--height 4 --width 4 --steps 4 --seed -1", "seed must be .*-1"),
        ("--height 9000000 --width 9000000 --steps 4", r"the disk of .* must have \d+\.\d TiB for the state"),
        ("--height 4 --width 4 --steps 4 --memory lots", "memory must be a size such as 2GiB"),
        (
            "--height 4 --width 4 --steps 4 --memory 1kB",
            "memory must be at least .* Give .* or choose a narrower canvas.",
        ),
        ("--height 4 --width 4 --steps 4 --map mask.png", "map and graft must be given together"),
        ("--height 4 --width 4 --steps 4 --grow-every 1", "--grow-every and --grow-by must be given together"),
        ("--height 4 --width 4 --steps 4 --grow-every 1 --grow-by 1", "height and width must be above 6"),
        ("--height 4 --width 4 --steps 4 --start cell", "start=cell needs an automaton with an alive channel"),
        ("--height 4 --width 4 --steps 4 --start nothing.png", "nothing.png"),
        ("--height 4 --width 4 --steps 4 --save-state x.png", "--save-state must end in .safetensors"),
        ("--height 4 --width 4 --steps 4 --resume", "a run to resume must have left"),
        ("--height 4 --width 4 --steps 4 --device cuda", "device cuda needs a GPU"),
        ("--height 4 --width 4 --steps 4 --device gpu", "device must be auto, cpu, cuda or cuda:NUMBER, but got 'gpu'"),
    ],
)
def test_bad_render_options(tmp_path, model, capsys, options, message):
    assert run(f"render {{0}} {options} --out {{1}}", model, tmp_path / "x.png") == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("nca-fast")]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("name", ["x.bmp", "x", "x.png.txt"])
def test_bad_ending(tmp_path, model, capsys, name):
    assert run("render {0} --height 4 --width 4 --steps 4 --out {1}", model, tmp_path / name) == 2
    assert_one_line(capsys.readouterr(), "out must end in one of .png")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "must exist"), (b"some text", "must be a safetensors file"), (b"truncated", "must be complete")],
)
def test_bad_model(tmp_path, model, capsys, content, message):
    bad = tmp_path / "bad.safetensors"
    if content is not None:
        bad.write_bytes(model.read_bytes()[:-5] if content == b"truncated" else content)
    assert run("render {0} --height 4 --width 4 --steps 4 --out {1}", bad, tmp_path / "x.png") == 2
    assert_one_line(capsys.readouterr(), message)
    assert not (tmp_path / "x.png").exists()


def test_text_file_as_image(tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    assert run("texture {0} --out {1}", tmp_path / "text.png", tmp_path / "run") == 2
    assert_one_line(capsys.readouterr(), "text.png")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command", ["texture {0} --out {2}/run", "render {1} --height 4 --width 4 --steps 4 --out {2}/x.png"]
)
def test_unwritable_folder(tmp_path, picture, model, capsys, command):
    (tmp_path / "file").write_text("no folder")
    assert cli.main(command.format(picture, model, tmp_path / "file").split()) == 2
    assert_one_line(capsys.readouterr(), "must be writable")


def test_bad_setting(tmp_path, picture, capsys):
    assert run("texture {0} --out {1} --image-size -64", picture, tmp_path / "run") == 2
    assert_one_line(capsys.readouterr(), "--image-size must be at least 16, but got -64")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("render a --steps 2 --height 1e3", "--height: it must be an integer such as 1000, or None, but is '1e3'"),
        ("render a --fps 2.5", "--fps: it must be an integer such as 1000, but is '2.5'"),
        ("texture a --lr-milestones 3 x", "--lr-milestones: it must be an integer such as 1000, or None, but is 'x'"),
        ("texture a --learning-rate 1/5", "--learning-rate: it must be a number such as 0.5, but is '1/5'"),
    ],
)
def test_what_is_no_number(tmp_path, capsys, command, said):
    with pytest.raises(SystemExit) as end:
        run(f"{command} --out {{0}}", tmp_path / "x.png")
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert end.value.code == 2 and said in shown and "instantiated" not in shown


def test_what_would_never_end(tmp_path, picture, model, capsys):
    """Or fill the memory before anything is refused: a film whose frames cannot be counted, circles, a pool, a run."""
    film = "render {0} --height 4 --width 4 --steps 4000000000 --out {1}"
    for command, said in (
        (film, "a film must have at most 10000000 frames, but 4000000000 steps make 500000000"),
        (f"{film} --steps-per-frame 1", "but 4000000000 steps make 4000000000"),
        (
            "texture {2} --out {3} --image-size 16 --picture-steps 2147483648",
            "--picture-steps must be below 2147483648",
        ),
        ("texture {2} --out {3} --image-size 16 --lr-milestones 1 9999999999", "--lr-milestones must be below"),
        ("texture {2} --out {3} --image-size 16 --pool-size 999999999", "memory must suffice, but does not: 999999999"),
        ("vae digits --out {3} --damage 1000000000", "damage must be from 0 to 1000, but got 1000000000"),
    ):
        assert run(command, model, tmp_path / "x.mp4", picture, tmp_path / "run") == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists() and not list(tmp_path.glob("run/*"))


def test_unknown_option(tmp_path, picture, capsys):
    assert run("texture {0} --out {1} --iteratoins 5", picture, tmp_path / "run") == 2
    assert_one_line(capsys.readouterr(), "texture has no option --iteratoins. Did you mean --iterations")


@pytest.mark.parametrize("option", ["--resume", "--resumable"])
def test_a_film_cannot_be_resumed(tmp_path, model, capsys, option):
    assert run(f"render {{0}} --height 4 --width 4 --steps 4 {option} --out {{1}}", model, tmp_path / "x.gif") == 2
    assert_one_line(capsys.readouterr(), "resume and resumable must go with a picture")


@pytest.mark.parametrize("memory", ["6.1MiB", "1GiB"])
def test_render_stays_the_same_with_little_memory(tmp_path, model, memory):
    """6.1 MiB are hardly more than what writing a PNG takes."""
    for name, options in (("a", ""), ("b", f"--memory {memory}")):
        command = f"render {{0}} --height 100 --width 120 --steps 9 --zoom 2 {options} --out {{1}}"
        assert run(command, model, tmp_path / f"{name}.png") == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "model"]


def test_a_film_stays_the_same_with_little_memory(tmp_path, model):
    for name, options in (("a", ""), ("b", "--memory 210kB")):  # 173 kB of it for frames; a state has 48
        command = f"render {{0}} --height 60 --width 40 --steps 6 --steps-per-frame 2 {options} --out {{1}}"
        assert run(command, model, tmp_path / f"{name}.gif") == 0
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "b.gif", "model"]


def test_render_goes_on_from_a_state(tmp_path, model):
    command = "render {0} --height 12 --width 20 --steps 5 --out {1} --save-state {2}"
    assert run(command, model, tmp_path / "a.png", tmp_path / "a.safetensors") == 0
    assert run("render {0} --steps 4 --start {2} --out {1}", model, tmp_path / "b.tif", tmp_path / "a.safetensors") == 0
    assert run("render {0} --height 12 --width 20 --steps 9 --out {1}", model, tmp_path / "c.png") == 0
    assert torch.equal(load_image(tmp_path / "b.tif"), load_image(tmp_path / "c.png"))


def test_render_films_a_canvas_that_grows(tmp_path, model):
    out = tmp_path / "x.gif"
    command = "render {0} --height 12 --width 20 --steps 6 --grow-every 2 --grow-by 1 --steps-per-frame 1 --out {1}"
    assert run(command, model, out) == 0
    with Image.open(out) as film:
        assert (film.n_frames, film.size) == (6, (20, 12))
        corners = []
        for frame in range(6):
            film.seek(frame)
            rgb = film.convert("RGB")
            corners.append([rgb.getpixel((i, i)) == (255, 255, 255) for i in range(3)])
    # Before the first growth two cells are missing at each side, then one, then none.
    assert corners == [[True, True, False]] * 2 + [[True, False, False]] * 2 + [[False] * 3] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_rendering_says_how_to_go_on(tmp_path, model, capsys, monkeypatch, error):
    command = f"render {model} --height 12 --width 20 --steps 9 --resumable --out {tmp_path / 'x.png'}"

    def write_picture(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "write_picture", write_picture)
        assert run(command) == (130 if error is KeyboardInterrupt else 2)
    assert capsys.readouterr().err.endswith(f"go on with: nca-fast {command} --resume\n")
    assert run(command) == 2
    assert "must not have an interrupted run" in capsys.readouterr().err
    assert run(f"{command} --resume") == 0
    assert run(f"render {model} --height 12 --width 20 --steps 9 --out {tmp_path / 'y.png'}") == 0
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.png", "y.png"]


@pytest.mark.parametrize("name", ["x.png", "x.mp4", "x.gif"])
def test_ctrl_c_in_rendering_leaves_no_file(tmp_path, model, capsys, monkeypatch, name):
    original = Colony.advance

    def advance(self, x, spare, row, first_step, steps):
        if first_step + steps > 5:
            raise KeyboardInterrupt
        return original(self, x, spare, row, first_step, steps)

    monkeypatch.setattr(Colony, "advance", advance)
    assert run("render {0} --height 8 --width 8 --steps 40 --out {1}", model, tmp_path / name) == 130
    assert capsys.readouterr().err.endswith("nca-fast: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_the_demo_proposes_after_its_picture_is_a_rendering(tmp_path, monkeypatch):
    from nca_fast.commands import demo

    typed = []
    monkeypatch.setattr(demo.Demo, "_training", lambda self: SimpleNamespace(run=lambda command: None))
    monkeypatch.setattr(demo.Profile, "run", lambda self, command: None)
    monkeypatch.setattr(demo.Render, "run", lambda self, command: typed.append(command))
    assert cli.main(["demo", "--out", str(tmp_path / "a b")]) == 0
    run, size = tmp_path / "a b", ["--height", "512", "--width", "1024"]
    assert typed == [shlex.join(["nca-fast", "render", str(run), *size, "--out", str(run / "wide.png")])]
