"""Several textures in one automaton: codes, maps of colours, canvases in any pieces, films, and errors."""

import re

import pytest
import torch

import nca_fast
from nca_fast import cli
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.paint import Paint, parse_legend, read_map
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.start import find_paint
from nca_fast.canvas.state_file import StateFile
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.film import film
from nca_fast.rendering.render import render
from nca_fast.textures import mixed, model_name, names_of, one_hot, parse_shares, tiling

RED, BLUE, WHITE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
CODES = {"brick": (1.0, 0.0), "moss": (0.0, 1.0)}


@pytest.fixture
def nca():
    torch.manual_seed(0)
    rule = nca_fast.Rule(channels=7, hidden=(8,), frozen=2)
    return nca_fast.NCA(rule, rgb_channel=2, start="noise", init_gain=0.3, textures=CODES)


@pytest.fixture
def model(nca, tmp_path):
    return nca.save_pretrained(tmp_path / "two", {"picture_steps": 3})


def painted(path, *columns, rows=4):
    """A map whose columns have these colours, from left to right."""
    save_image(torch.tensor(columns).T[:, None].expand(3, rows, len(columns)), path)
    return str(path)


# Codes


def test_names_are_those_of_the_files_and_differ():
    assert names_of(["a/brick wall.png", "skimage:brick", "x/brick.jpg", None, "a,b:c=d.png"]) == [
        *("brick-wall", "brick", "brick-2", "texture", "a-b-c-d")
    ]
    assert [model_name(name) for name in ("runs/brick/model.safetensors", "runs/moss", "zoo:bark")] == [
        *("brick", "moss", "bark")
    ]


def test_a_blend_is_the_mean_of_codes_and_one_alone_is_its_code():
    codes = one_hot(["a", "b", "c"])
    assert torch.equal(mixed(codes), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(mixed(codes, {"b": 0.1}), torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(mixed(codes, parse_shares("a:3,c:1", codes)), torch.tensor([0.75, 0.0, 0.25]))
    for bad in ({"a": -1.0}, {"a": 0.0}, {"a": float("nan")}, {"d": 1.0}):
        with pytest.raises(ValueError, match="shares of textures must be at least 0|must be one of a, b, c"):
            mixed(codes, bad)


@pytest.mark.parametrize("text", ["a,b", "a:x", "a:1,a:1", "a:-1,b:2", "a:0", "a:0,b:0", "d", "a:1,", ":1", "a:nan"])
def test_what_is_no_blend_is_refused(text):
    with pytest.raises(ValueError, match="a blend of textures must|texture must be one of a, b"):
        parse_shares(text, one_hot(["a", "b"]))


@pytest.mark.parametrize("count", range(1, 9))
def test_a_tiling_has_all(count):
    tiles = tiling(count)
    assert set(tiles.flatten().tolist()) == set(range(count)) and tiles.numel() <= count + 2


def test_an_automaton_keeps_its_textures_in_its_file_and_starts_with_a_code(nca, model):
    again = nca_fast.NCA.from_pretrained(model)
    assert again.textures == CODES
    for texture, code in ((None, [1, 0]), ("moss", [0, 1]), ({"brick": 1, "moss": 3}, [0.25, 0.75])):
        x = again.initial_state(2, 5, 4, seed=3, texture=texture)
        assert torch.equal(x[:, :2], torch.tensor(code).float()[None, :, None, None].expand(2, 2, 5, 4))
    plain = nca_fast.NCA(nca.rule, rgb_channel=2, start="noise")
    assert torch.equal(plain.initial_state(2, 5, 4, seed=3)[:, 2:], x[:, 2:]) and "textures" not in plain.config()
    y = again(x, steps=3, seed=0)
    assert torch.equal(y[:, :2], x[:, :2]) and not torch.equal(
        y, again(again.initial_state(2, 5, 4, seed=3), 3, seed=0)
    )


@pytest.mark.parametrize(
    ("textures", "message"),
    [
        ({"a": (1.0,), "b": (0.0, 1.0)}, "'a' must be 2 finite numbers"),
        ({"a": (1.0, float("inf"))}, "'a' must be 2 finite numbers"),
        ({"a,b": (1.0, 0.0)}, "letters, digits"),
        ({f"t{i}": (1.0, 0.0) for i in range(9)}, "at most 8, but got 9"),
        (["a"], "codes by name"),
    ],
)
def test_codes_are_checked(nca, textures, message):
    with pytest.raises(ValueError, match=message):
        nca_fast.NCA(nca.rule, textures=textures)
    if isinstance(textures, dict):
        with pytest.raises(ValueError, match=message):
            nca_fast.NCA.from_config(nca.config() | {"textures": textures})


def test_textures_are_refused_where_there_are_none():
    nca = nca_fast.NCA(nca_fast.Rule(channels=5))
    with pytest.raises(ValueError, match="texture must be left out for an automaton that knows one alone"):
        nca.initial_state(1, 4, 4, texture="brick")
    with pytest.raises(ValueError, match="texture must go with an automaton that knows several"):
        render(Scene(nca, 4, 4, 1, config=CanvasConfig(texture="brick")))


# Maps of colours


def test_colours_mean_textures_from_dark_to_light_or_by_a_legend():
    picture = torch.tensor([WHITE, BLUE, (0.9, 0.1, 0.0)]).T[:, None]
    own = {name: {name: 1.0} for name in ("a", "b", "c")}
    labels, shares, said = read_map(picture, own, {})
    assert [shares[label] for label in labels[0]] == [{"c": 1.0}, {"a": 1.0}, {"b": 1.0}]
    assert "#0000ff is a, #e61a00 is b, #ffffff is c" in said
    legend = parse_legend("red=b, #00f=a:0.7,c:0.3,white=c", own)
    labels, shares, said = read_map(picture, own, legend)
    assert [shares[label] for label in labels[0]] == [{"c": 1.0}, {"a": 0.7, "c": 0.3}, {"b": 1.0}] and said == ""
    del own["c"]
    with pytest.raises(ValueError, match="at most 2 colours, one for each texture, but has 3"):
        read_map(picture, own, {})


@pytest.mark.parametrize(
    ("legend", "message"),
    [
        ("brick", "must be COLOUR=TEXTURE"),
        ("rad=brick", "'rad', which is none"),
        ("red=brick,#f00=moss", "'#f00' twice"),
        ("red=mos", "Did you mean 'moss'"),
    ],
)
def test_what_is_no_legend_is_refused(legend, message):
    with pytest.raises(ValueError, match=message):
        parse_legend(legend, CODES)


@pytest.mark.parametrize("soft", [0, 1, 4, 5])
def test_a_border_is_as_wide_as_it_shall_be_and_a_ramp(soft):
    paint = Paint(torch.tensor([[0, 1]]), torch.eye(2)[None], 6, 40, soft=soft)
    codes = paint.rows(torch.arange(6))
    assert torch.allclose(codes.sum(0), torch.ones(6, 40)) and torch.equal(codes[:, 0], codes[:, 5])
    assert torch.equal(codes[1, 0], codes[0, 0].roll(20)) and torch.equal(codes[0, 0], codes[0, 0, :].roll(20).flip(0))
    between = codes[1, 0, 10:30]
    ramp = between[(between > 0) & (between < 1)]
    # Between the middles of the cells on either side of a border of width w, some w - 1 or w cells.
    assert abs(len(ramp) - max(0, soft - 1)) <= (1 if soft > 1 else 0)
    assert (between.diff() >= 0).all() and (soft < 2 or between.diff().max() <= 1.001 / soft)


def test_a_border_across_rows_is_as_wide():
    across = Paint(torch.tensor([[0], [1]]), torch.eye(2)[None], 40, 6, soft=5).rows(torch.arange(40))
    along = Paint(torch.tensor([[0, 1]]), torch.eye(2)[None], 6, 40, soft=5).rows(torch.arange(6))
    assert torch.equal(across, along.transpose(1, 2))


def test_edges_that_are_no_neighbours_have_no_border():
    flat = Paint(torch.tensor([[0, 1]]), torch.eye(2)[None], 6, 40, soft=6, circular=False).rows(torch.arange(6))
    assert (flat[0, :, :16] == 1).all() and (flat[1, :, 24:] == 1).all()


@pytest.mark.parametrize("soft", [0, 6])
def test_rows_do_not_depend_on_those_beside_them(soft):
    labels = torch.randint(3, (7, 9), generator=torch.Generator().manual_seed(0))
    paint = Paint(labels, torch.rand(1, 3, 4), 30, 33, soft=soft)
    whole = paint.rows(torch.arange(30))
    assert torch.equal(paint.rows(torch.tensor([28, 29, 0, 1, 17])), whole[:, [28, 29, 0, 1, 17]])
    assert torch.equal(paint.rows(torch.arange(4, 9), 5, 20), whole[:, 4:9, 5:25])
    assert torch.equal(paint.rows(torch.arange(4, 9), 30, 6), whole[:, 4:9].roll(-30, 2)[..., :6])  # a torus


def test_a_film_stays_and_goes_in_turns():
    paint = Paint(torch.zeros(1, 1, dtype=torch.int64), torch.eye(3)[:, None], 2, 2)
    places = [paint.at(share / 10) for share in range(11)]
    assert places == pytest.approx([0, 0, 0, 0.5, 1, 1, 1, 1.5, 2, 2, 2])
    codes = paint.rows(torch.arange(2), at=1.5)
    assert torch.equal(codes[:, 0, 0], torch.tensor([0.0, 0.5, 0.5]))
    assert torch.equal(paint.rows(torch.arange(2), at=2.0)[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]))


# Canvases


def by_hand(nca, scene, steps):
    """The canvas with its codes put into the start state of the whole."""
    x = nca.initial_state(1, scene.height, scene.width, seed=scene.seed)
    x[0, :2] = find_paint(scene).rows(torch.arange(scene.height))
    return nca(x, steps, seed=scene.seed).detach()


@pytest.mark.parametrize("settings", [{"texture": "moss"}, {"paint": True, "soft": 6}, {"texture": "brick:1,moss:3"}])
@pytest.mark.parametrize(("strip_rows", "in_memory"), [(5, True), (7, False)])
def test_canvases_in_strips_are_those_in_one_piece(nca, tmp_path, settings, strip_rows, in_memory):
    if "paint" in settings:
        settings = settings | {"paint": painted(tmp_path / "map.png", BLUE, RED, BLUE)}
    scene = Scene(nca, 40, 21, 5, seed=7, config=CanvasConfig(**settings))
    expected = by_hand(nca, scene, 5)
    assert torch.equal(render(scene), expected)
    with Canvas(scene, path=tmp_path / "x.png", plan=Plan(strip_rows, 2, 4, in_memory, False)) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 40), expected[0])
    other = render(Scene(nca, 40, 21, 5, seed=7))
    assert torch.equal(other, nca(nca.initial_state(1, 40, 21, seed=7), 5, seed=7)) and not torch.equal(other, expected)


def test_a_canvas_that_grows_is_painted_as_at_its_end(nca, tmp_path):
    path = str(tmp_path / "map.png")
    save_image(torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0)).round().expand(3, -1, -1), path)
    config = CanvasConfig(paint=path, soft=3, grow_every=2, grow_by=3)
    state = render(Scene(nca, 20, 22, 5, seed=3, config=config))
    whole = Scene(nca, 20, 22, 5, config=CanvasConfig(paint=path, soft=3))
    assert torch.equal(state[0, :2], find_paint(whole).rows(torch.arange(20)))


def test_a_state_keeps_its_codes_unless_it_is_painted_anew(nca, tmp_path):
    first = Scene(nca, 12, 10, 4, config=CanvasConfig(texture="moss"))
    with Canvas(first) as canvas:
        canvas.go()
        canvas.save_state(tmp_path / "x.safetensors")
    start = str(tmp_path / "x.safetensors")
    kept = render(Scene(nca, 12, 10, 2, config=CanvasConfig(start=start)))
    assert torch.equal(kept, by_hand(nca, first, 6))
    anew = render(Scene(nca, 12, 10, 2, config=CanvasConfig(start=start, texture="brick")))
    assert (anew[0, 0] == 1).all() and (anew[0, 1] == 0).all()


def test_a_picture_to_start_from_shows_in_the_colours_alone(nca, tmp_path):
    save_image(torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0)), tmp_path / "photo.png")
    config = CanvasConfig(start=str(tmp_path / "photo.png"), texture="moss")
    with Canvas(Scene(nca, 6, 5, 1, config=config)) as canvas:
        canvas.go(0)
        state = canvas.rows(0, 6)
    assert (state[0] == 0).all() and (state[1] == 1).all()
    assert torch.allclose(nca.to_rgb(state[None])[0], load_image(tmp_path / "photo.png"))


def test_a_rendering_that_was_interrupted_goes_on_with_the_same_map_alone(nca, tmp_path):
    path = painted(tmp_path / "map.png", BLUE, RED)
    config = CanvasConfig(paint=path, soft=4, resumable=True, steps_per_pass=2)
    scene = Scene(nca, 12, 9, 6, config=config)
    with pytest.raises(KeyboardInterrupt), Canvas(scene, path=tmp_path / "x.png", resume=False) as canvas:
        canvas.go(2)
        raise KeyboardInterrupt
    before = load_image(path)
    painted(tmp_path / "map.png", RED, BLUE)
    with pytest.raises(ValueError, match="paint \\(was"):
        Canvas(scene, path=tmp_path / "x.png", resume=True)
    save_image(before, tmp_path / "map.png")
    with Canvas(scene, path=tmp_path / "x.png", resume=True) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 12), by_hand(nca, scene, 6)[0])


def test_a_film_turns_one_texture_into_the_other(nca, tmp_path):
    config = CanvasConfig(texture="brick", texture_to=("brick:1,moss:1", "moss"))
    scene = Scene(nca, 8, 10, 10, config=config)
    film(scene, tmp_path / "x.gif", steps_per_frame=1, save_state=tmp_path / "x.safetensors")
    state = StateFile(tmp_path / "x.safetensors").rows(0, 8)
    assert (state[0] == 0).all() and (state[1] == 1).all()
    x = nca.initial_state(1, 8, 10, seed=0)
    for step, place in enumerate([0, 0, 0, 0.25, 0.5, 0.5, 0.5, 0.75, 1, 1]):
        x[0, 0], x[0, 1] = 1 - place, place
        x = nca(x, 1, seed=0, first_step=step).detach()
    assert torch.allclose(x[0, 2:], state[2:], rtol=0, atol=1e-6)  # codes in between are rounded


def test_single_automata_are_painted_by_the_same_words(tmp_path):
    torch.manual_seed(1)
    rule = nca_fast.Rule(channels=6, hidden=(8,))
    ncas = [nca_fast.NCA(rule, start="noise", init_gain=0.3) for _ in range(2)]
    ncas[1].save_pretrained(tmp_path / "gravel")
    path = painted(tmp_path / "map.png", BLUE, RED)
    config = CanvasConfig(graft=(tmp_path / "gravel",), paint=path, legend="red=brick,blue=gravel")
    scene = Scene(ncas[0], 8, 32, 3, seed=7, name="brick", config=config)
    state = render(scene)
    start = ncas[0].initial_state(1, 8, 32, seed=7)
    assert torch.equal(state[..., 3:13], ncas[1](start, 3, seed=7)[..., 3:13])  # blue is on the left
    assert torch.equal(state[..., 19:29], ncas[0](start, 3, seed=7)[..., 19:29])
    with Canvas(scene, path=tmp_path / "x.png", plan=Plan(3, 2, 2, False, False)) as canvas:
        canvas.go()
        assert torch.equal(canvas.rows(0, 8), state[0])


# The command line


def run(model, *arguments):
    return cli.main(["render", str(model), "--steps", "2", *map(str, arguments)])


def test_the_command_paints_and_says_how_it_understood(model, nca, tmp_path, capsys):
    size, path = ["--height", "8", "--width", "12"], painted(tmp_path / "map.png", BLUE, WHITE)
    assert run(model, *size, "--out", tmp_path / "a.png", "--paint", path, "--soft", "3") == 0
    assert "#0000ff is brick, #ffffff is moss" in capsys.readouterr().out
    expected = by_hand(nca, Scene(nca, 8, 12, 2, config=CanvasConfig(paint=path, soft=3)), 2)
    assert torch.allclose(load_image(tmp_path / "a.png"), nca.to_rgb(expected)[0], atol=0.51 / 255)
    assert run(model, *size, "--out", tmp_path / "b.png") == 0
    assert "texture brick; it knows moss, too" in capsys.readouterr().out
    assert (
        run(model, *size, "--out", tmp_path / "c.gif", "--texture", "moss", "--texture-to", "brick", "moss:1,brick:1")
        == 0
    )


def test_a_sheet_shows_every_two(model, nca, tmp_path, capsys, monkeypatch):
    out, size = tmp_path / "sheet.png", ["--side", "9", "--steps", "3"]
    assert cli.main(["sheet", str(model), "--out", str(out), *size]) == 0
    assert "rows and columns: brick, moss" in capsys.readouterr().out
    sheet = load_image(out)
    assert sheet.shape == (3, 22, 22) and (sheet[:, 9:13] == 1).all()
    for top, left, texture in ((0, 0, "brick"), (0, 13, "brick:2,moss:1"), (13, 0, "brick:1,moss:2"), (13, 13, "moss")):
        shown = nca.to_rgb(render(Scene(nca, 9, 9, 3, config=CanvasConfig(texture=texture))))[0]
        assert torch.allclose(sheet[:, top : top + 9, left : left + 9], shown, atol=0.51 / 255)
    nca_fast.NCA(nca_fast.Rule(channels=5)).save_pretrained(tmp_path / "one")
    assert cli.main(["sheet", str(tmp_path / "one"), "--out", str(out)]) == 2
    assert "must know several textures" in capsys.readouterr().err
    assert cli.main(["sheet", str(model), "--out", str(out), "--side", "0"]) == 2
    assert "height must be at least 1, but got 0" in capsys.readouterr().err
    monkeypatch.setattr("nca_fast.rendering.render.render", lambda scene: pytest.fail("drawn in vain"))
    assert cli.main(["sheet", str(model), "--out", str(tmp_path / "sheet.tif")]) == 2
    assert "out must end in one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--texture mos", "texture must be one of brick, moss, but got 'mos'. Did you mean 'moss'?"),
        ("--texture moss --paint {map}", "texture and --texture-to must be left out where paint"),
        ("--soft 3", "legend and soft must go with paint"),
        ("--legend red=moss", "legend and soft must go with paint"),
        ("--paint {map} --soft 0", "soft must be from 1 to 256"),
        ("--paint {map} --legend red=mos,blue=brick", "Did you mean 'moss'"),
        ("--paint nothere.png", "nothere.png"),
        ("--texture-to moss", "--texture-to must go with a film"),
        ("--paint {map} --map {map} --graft {other}", "map and paint must not both"),
        ("--paint {map} --graft {model}", "paint must mean either textures or automata"),
        ("--map {map} --graft {other}", "automata of a canvas must know the same textures"),
    ],
)
def test_errors_are_one_line(model, tmp_path, capsys, options, message):
    nca_fast.NCA(nca_fast.Rule(channels=7), rgb_channel=2).save_pretrained(tmp_path / "other")
    paths = {"map": painted(tmp_path / "map.png", BLUE, RED), "other": tmp_path / "other", "model": model}
    size = ["--height", "8", "--width", "8", "--out", tmp_path / "a.png"]
    assert run(model, *size, *options.format(**paths).split()) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if not re.match(r"\ra.png: |a.png: ", line) and line]
    assert line.startswith("nca-fast: error: ") and message in line
    assert not (tmp_path / "a.png").exists()


def test_folders_of_one_name_cannot_be_told_apart(tmp_path):
    nca = nca_fast.NCA(nca_fast.Rule(channels=6))
    folders = [tmp_path / name / "same" for name in "ab"]
    for folder in folders:
        nca.save_pretrained(folder)
    config = CanvasConfig(graft=(folders[1],), paint=painted(tmp_path / "map.png", BLUE, RED))
    with pytest.raises(ValueError, match="must have different names, but got same"):
        render(Scene(nca, 8, 8, 1, name="same", config=config))


def test_only_the_ratios_of_shares_count_however_large():
    for share in (1e308, 1.0, 5e-324):
        assert mixed(CODES, {"brick": share, "moss": share}).tolist() == [0.5, 0.5]
