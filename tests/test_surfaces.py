"""Maps of a surface beside colours: what an automaton holds, files that tile, and trainings that learn them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same_run
from test_training import TINY

from nca_fast import NCA, Rule, checkpoint, cli
from nca_fast.canvas.canvas import Canvas
from nca_fast.canvas.plan import Plan
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.state_file import write_state
from nca_fast.map_names import parse_maps
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.picture import picture
from nca_fast.rendering.surfaces import write_maps
from nca_fast.surfaces import checked_maps, facing
from nca_fast.systems.surface import Learned, for_maps, judged_together, views
from nca_fast.systems.texture import Texture, TextureSources
from nca_fast.training.session import run_training

MAPS = {"normal": 3, "roughness": 1, "height": 1}
FILES = ("x.png", "x_normal.png", "x_roughness.png", "x_height.png")


@pytest.fixture
def nca():
    torch.manual_seed(2)
    rule = Rule(channels=9, hidden=(10,), fire_rate=1.0, clamp=(-0.6, 0.6))
    return NCA(rule, start="noise", init_gain=0.5, maps=MAPS)


def random_picture(height=16, width=16, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def bytes_of(path):
    return np.asarray(Image.open(path))


# What an automaton holds


def test_an_automaton_keeps_its_maps_and_reads_them_after_the_colours(nca, tmp_path):
    again = NCA.from_pretrained(nca.save_pretrained(tmp_path))
    assert again.maps == MAPS and list(again.maps) == list(MAPS)
    x = again.initial_state(2, 4, 5, seed=1) - 0.5
    assert torch.equal(again.to_map(x, "roughness"), x[:, 6:7] + 0.5)
    assert torch.equal(again.to_map(3 * x, "height"), (3 * x[:, 7:8] + 0.5).clamp(0, 1))
    assert torch.equal(again.to_map(3 * x, "height", clamp=False), 3 * x[:, 7:8] + 0.5)
    normals = 2 * again.to_map(x, "normal") - 1
    assert torch.allclose(normals.norm(dim=1), torch.ones(2, 4, 5), atol=1e-6)
    assert torch.allclose(normals, torch.nn.functional.normalize(2 * x[:, 3:6], dim=1), atol=1e-6)
    with pytest.raises(ValueError, match="map must be one of normal, roughness, height, but got 'metallic'"):
        again.to_map(x, "metallic")
    assert "maps" not in NCA(nca.rule).config()


def test_what_has_no_direction_faces_the_viewer():
    assert facing(torch.full((3, 1, 1), 0.5)).flatten().tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({"roughnes": 1}, "Did you mean 'roughness'"),
        ({"normal": 1}, "map normal must have 3 channels"),
        ({"emission": 2}, "map emission must have 1 or 3 channels"),
        ({"normal": 3, "emission": 3, "height": 1}, "7 channels from 3 on are more than the 9"),
        (["normal"], "by name"),
    ],
)
def test_maps_are_checked(nca, maps, message):
    for make in (lambda: checked_maps(maps, 9, 0), lambda: NCA.from_config(nca.config() | {"maps": maps})):
        with pytest.raises(ValueError, match=message):
            make()


# Files


def tiled(x, times):
    return x.repeat(1, times, times)


@pytest.mark.parametrize(("zoom", "smooth"), [(1, False), (3, False), (3, True)])
def test_a_set_tiles_by_arithmetic(nca, tmp_path, zoom, smooth):
    """Two by two tiles, as a canvas of their own, are those of one canvas, and so is what a window anywhere shows."""
    start, height, width = nca.initial_state(1, 12, 10, seed=5)[0], 12, 10
    for name, times in (("one", 1), ("four", 2)):
        folder, state = tmp_path / name, tmp_path / f"{name}.safetensors"
        folder.mkdir()
        write_state(state, 9, times * height, times * width, [tiled(start, times)], {"step": 0, "seed": 0})
        scene = Scene(nca, times * height, times * width, 7, config=CanvasConfig(start=str(state)))
        assert picture(scene, folder / "x.png", zoom=zoom, smooth=smooth) == [folder / file for file in FILES]
    for file in FILES:
        one, four = bytes_of(tmp_path / "one" / file), bytes_of(tmp_path / "four" / file)
        assert one.std() > 0 and one.shape[:2] == (zoom * height, zoom * width)
        down, right = zoom * height // 2, zoom * width // 2
        window = four[down : down + zoom * height, right : right + zoom * width]
        assert np.array_equal(window, np.roll(one, (-down, -right), (0, 1)))


def test_heights_have_16_bits_and_normals_length_1(nca, tmp_path):
    scene = Scene(nca, 12, 10, 7, seed=5)
    picture(scene, tmp_path / "x.jpg")
    state = nca(nca.initial_state(1, 12, 10, seed=5), 7, seed=5).detach()
    height = Image.open(tmp_path / "x_height.png")
    assert height.mode.startswith("I") and (np.asarray(height) % 257 != 0).any()
    assert torch.allclose(load_image(tmp_path / "x_height.png")[:1], nca.to_map(state, "height")[0], atol=0.6 / 65535)
    roughness = bytes_of(tmp_path / "x_roughness.png")
    assert roughness.dtype == np.uint8 and roughness.shape == (12, 10)
    assert np.array_equal(roughness, (nca.to_map(state, "roughness")[0, 0] * 255).round().byte().numpy())
    directions = bytes_of(tmp_path / "x_normal.png") / 255 * 2 - 1
    assert np.abs(np.linalg.norm(directions, axis=2) - 1).max() < 0.01
    assert (tmp_path / "x.jpg").exists() and not (tmp_path / "x.png").exists()


def test_maps_of_a_canvas_in_strips_are_the_same(nca, tmp_path):
    scene = Scene(nca, 30, 10, 4, seed=5)
    picture(scene, tmp_path / "x.png")
    folder = tmp_path / "strips"
    folder.mkdir()
    with Canvas(scene, path=folder / "x.png", plan=Plan(7, 2, 4, False, False)) as canvas:
        canvas.go()
        files = write_maps(canvas, folder / "x.png", (30, 10))
    assert [file.name for file in files] == list(FILES[1:])
    assert all(file.read_bytes() == (tmp_path / file.name).read_bytes() for file in files)


# Trainings


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surface")
    save_image(random_picture(20, 24), folder / "albedo.png")
    save_image(random_picture(20, 24, 1), folder / "normal.png")
    save_image(random_picture(20, 24, 2)[:1].expand(3, -1, -1), folder / "height.png")
    return folder


def sources(pictures, **files):
    files = files or {"normal": "normal.png", "height": "height.png"}
    maps = tuple(f"{name}={pictures / file}" for name, file in files.items())
    return TextureSources(str(pictures / "albedo.png"), maps=maps)


CONFIG = replace(TINY, image_crop=18, iterations=4, preview_every=2)


def train(out, given, config=CONFIG, **how):
    return run_training(Texture, given, out, config, progress=False, **how)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, sources(pictures))


def test_what_a_run_with_maps_leaves(whole_run, pictures):
    folder, result = whole_run
    nca = NCA.from_pretrained(folder)
    assert nca.maps == {"normal": 3, "height": 1} and nca.rule.channels == 16
    assert {"texture.png", "texture_normal.png", "texture_height.png"} <= {file.name for file in result.files}
    made = checkpoint.load_metadata(folder / "model.safetensors")["provenance"]
    assert [(one["name"], one["channels"]) for one in made["maps"]] == [("normal", 3), ("height", 1)]
    target = checkpoint.load(folder / "training.safetensors")[0]["target_normal"]
    assert torch.allclose((2 * target - 1).norm(dim=0), torch.ones(target.shape[1:]), atol=1e-6)
    preview = load_image(folder / "preview.png")
    assert preview.shape[2] > 3 * 16  # colours and both maps beside each other


def test_a_resumed_run_with_maps_is_the_same(whole_run, pictures, tmp_path):
    train(tmp_path, sources(pictures), replace(CONFIG, iterations=2))
    train(tmp_path, TextureSources(), CONFIG, resume=True)
    folder, _ = whole_run
    weights = [checkpoint.load(run / "model.safetensors")[0] for run in (folder, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    again = tmp_path / "again"
    train(again, sources(pictures))
    assert_same_run(again, folder)
    train(again, sources(pictures), resume=True)
    with pytest.raises(ValueError, match=r"maps must be those of the run in .*\(normal, height\)"):
        train(again, sources(pictures, normal="height.png", height="height.png"), resume=True)


def test_views_are_all_maps_and_all_pairs_and_show_what_they_are_of(nca):
    targets = {name: random_picture(5, 6, seed)[:count] for seed, (name, count) in enumerate(MAPS.items(), 1)}
    maps = [Learned(name, None, target) for name, target in targets.items()]
    albedo = random_picture(5, 6)
    single, pairs = views(nca, albedo, maps)
    state = torch.cat([albedo, *targets.values(), torch.zeros(1, 5, 6)])[None] - 0.5
    assert len(single) == 4 and len(pairs) == 6
    for view in (*single, *pairs):
        assert view.target.shape == (3, 5, 6)
        assert torch.allclose(view.of(state)[0], view.target, atol=1e-6)
    others = state.clone()
    others[:, 7] += 0.1  # the height: in one picture for itself, and in three pairs
    assert sum(not torch.allclose(view.of(others), view.of(state)) for view in single) == 1
    assert sum(not torch.allclose(view.of(others), view.of(state)) for view in pairs) == 3


def test_an_iteration_looks_at_every_picture_and_at_each_pair_in_its_turn():
    seen = []

    def judge(number):
        def losses(states, drawn):
            assert drawn == [number]
            seen.append(number)
            return {"style": torch.tensor(float(number)), "overflow": torch.tensor(3.0)}

        return losses, lambda generator: [number]

    objective = judged_together([judge(0), judge(1)], [judge(number) for number in (2, 5)])
    found = [objective(None, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert seen[::3] == [0] * 8 and seen[1::3] == [1] * 8 and set(seen[2::3]) == {2, 5}
    assert all(float(losses["style"]) == (1 + seen[3 * i + 2]) / 3 for i, losses in enumerate(found))
    assert all(float(losses["overflow"]) == 3 for losses in found)


def test_more_channels_have_more_hidden_units():
    maps = [Learned(name, None, torch.zeros(count, 2, 2)) for name, count in MAPS.items()]
    nca = for_maps(NCA.preset("texture"), maps)
    assert nca.rule.channels == 17 and nca.rule.hidden == (128,) and nca.maps == MAPS
    with pytest.raises(ValueError, match="preset must be an automaton whose colours are its first channels"):
        for_maps(NCA.preset("strokes"), maps)


def test_maps_are_read_by_name():
    assert parse_maps(["normal=a=b.png", "height=h.png"]) == {"normal": "a=b.png", "height": "h.png"}
    for texts, message in (
        (["normal"], "must be NAME=IMAGE"),
        (["normals=n.png"], "Did you mean 'normal'"),
        (["height=a", "height=b"], "height is twice"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_maps(texts)


def test_errors_of_the_command_are_one_line(pictures, tmp_path, capsys):
    save_image(random_picture(20, 25), tmp_path / "wide.png")
    albedo, normal = pictures / "albedo.png", pictures / "normal.png"
    for words, message in (
        ([albedo, "--maps", f"height={tmp_path / 'wide.png'}"], "map height must have the 20 x 24 pixels"),
        ([albedo, normal, "--maps", f"normal={normal}"], "maps must go with one picture"),
        ([albedo, "--maps", "height=nofile.png"], "nofile.png"),
    ):
        assert cli.main(["texture", *map(str, words), "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
