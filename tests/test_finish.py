"""How much of a photograph shows in what was made of it, whose colours that has, and automata that redraw together."""

import numpy as np
import pytest
import torch
from PIL import Image

import nca_fast
from nca_fast import cli
from nca_fast.commands.models import model_shares
from nca_fast.rendering.apply import apply
from nca_fast.rendering.blend import blended
from nca_fast.rendering.finish import Finish, recolored

HOW = {"seed": 1, "backend": "reference"}
LUMINANCE = np.array([0.299, 0.587, 0.114])


def automaton(seed, **changes):
    torch.manual_seed(seed)
    nca = nca_fast.NCA.preset(changes.pop("preset", "style"))
    with torch.no_grad():
        for weights in nca.parameters():
            weights += 0.1 * torch.randn(weights.shape)
    return nca


@pytest.fixture(scope="module")
def models():
    return [automaton(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Half-transparent, with hidden colours where it is wholly so."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    pixels[0, :, 3], pixels[1, :, 3], pixels[2, :, 3] = 255, 1, 0
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).save(path)
    Image.fromarray(pixels[..., :3]).save(path.with_name("opaque.png"))
    Image.fromarray(np.random.default_rng(1).integers(0, 65536, (6, 9), dtype=np.uint16)).save(
        path.with_name("deep.png")
    )
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image if image.mode == "RGBA" else image.convert("RGB")).astype(int)


def test_strength_goes_straight_from_the_photograph_to_what_was_drawn(tmp_path, models, photo):
    for source in (photo, photo.with_name("opaque.png"), photo.with_name("deep.png")):
        drawn = []
        for strength in (0.0, 0.25, 0.5, 1.0):
            apply(models[0], source, tmp_path / "x.png", 4, strength=strength, **HOW)
            drawn.append(read(tmp_path / "x.png"))
        apply(models[0], source, tmp_path / "x.png", 4, **HOW)
        assert np.array_equal(read(tmp_path / "x.png"), drawn[3])
        if source.stem == "deep":
            with Image.open(source) as image:  # of 16 bits the nearest of 8
                original = np.round(np.asarray(image) / 257.0).astype(int)[..., None].repeat(3, 2)
        else:
            original = read(source)
        seen = original[..., 3] > 0 if original.shape[2] == 4 else np.full(original.shape[:2], True)
        assert np.array_equal(drawn[0][seen], original[seen])
        if original.shape[2] == 4:
            assert all(np.array_equal(picture[..., 3], original[..., 3]) for picture in drawn)
        first, last = drawn[0][seen], drawn[3][seen]
        assert np.abs(last - first).max() > 20
        for strength, between in zip((0.25, 0.5), drawn[1:3], strict=True):
            # What is laid over the photograph was rounded before, and the result is again; worst seen 0.75.
            assert np.abs(between[seen] - (first + strength * (last - first))).max() <= 1


def test_a_film_fades_as_a_picture_does(tmp_path, models, photo):
    source = photo.with_name("opaque.png")
    apply(models[0], source, tmp_path / "x.png", 3, strength=0.5, preserve_color=True, **HOW)
    apply(models[0], source, tmp_path / "x.gif", 3, strength=0.5, preserve_color=True, steps_per_frame=3, **HOW)
    with Image.open(tmp_path / "x.gif") as film:
        film.seek(1)
        assert np.abs(np.asarray(film.convert("RGB")) - read(tmp_path / "x.png")).max() <= 1  # worst seen 0


def test_colors_of_the_photograph_stay(tmp_path, models, photo):
    source = photo.with_name("opaque.png")
    apply(models[0], source, tmp_path / "drawn.png", 4, **HOW)
    apply(models[0], source, tmp_path / "x.png", 4, preserve_color=True, **HOW)
    found, drawn, original = (read(path) for path in (tmp_path / "x.png", tmp_path / "drawn.png", source))
    assert np.abs((found - drawn) @ LUMINANCE).max() <= 1  # both are rounded; worst seen 0.44
    found, original = (picture - (picture @ LUMINANCE)[..., None] for picture in (found, original))
    # Hue: a pixel's distance from grey points where the photograph's does, and is no longer than that.
    share = (found * original).sum(-1) / (original**2).sum(-1)
    assert share.min() >= 0 and share.max() <= 1.02 and share.mean() > 0.4  # rounding; seen 0 to 1, mean 0.51
    assert np.abs(found - share[..., None] * original).max() <= 1.5  # rounding; worst seen 0.62


def test_colors_that_cannot_be_are_brought_towards_grey():
    drawing = torch.tensor([[1.0, 0.0, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5], [1.0, 0.0, 0.5, 0.5]])[:, None]
    photo = torch.tensor([[1.0, 1.0, 1.0, 0.3], [0.0, 0.0, 0.0, 0.3], [0.0, 0.0, 0.0, 0.3]])[:, None]
    found = recolored(drawing, photo)
    assert torch.equal(found[:, 0, [0, 1, 3]], drawing[:, 0, [0, 1, 3]])
    assert torch.allclose(found[:, 0, 2], torch.tensor([1.0, 0.28673, 0.28673]), atol=1e-4)  # Y 0.5, R - Y at its end


def test_rows_are_finished_where_they_are():
    photo, drawing = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    finish, drawing = Finish(photo, 0.3), (drawing * 255).round().to(torch.uint8).permute(1, 2, 0)
    blocks = [drawing[:2], drawing[2:3], drawing[3:]]
    whole = torch.cat(list(finish.blocks(blocks)))
    assert torch.equal(whole, torch.cat(list(finish.blocks([drawing])))) and whole.dtype == torch.uint8
    wanted = photo * 0.7 + drawing.permute(2, 0, 1) / 255 * 0.3
    assert (whole.permute(2, 0, 1) - 255 * wanted).abs().max() <= 0.501


def step(nca, state, seed=0):
    with torch.no_grad():
        return nca(state, 1, seed=seed, backend="reference")


def test_a_blend_is_the_mean_of_the_updates(models):
    shares = [1.0, 3.0, 0.0, 2.0]
    ncas = [models[0], models[1], automaton(9), models[2]]
    whole = blended(ncas, shares)
    image = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    state = whole.initial_state(1, 5, 6, image=image)
    assert whole.rule.channels == 6 + 3 * 12 and whole.rule.hidden == (270, 270)
    for seed in range(2):
        after, color = step(whole, state, seed), state[:, 3:6].clone()
        for index, (nca, share) in enumerate([(models[0], 1 / 6), (models[1], 3 / 6), (models[2], 2 / 6)]):
            hidden = slice(6 + 12 * index, 18 + 12 * index)
            alone = step(nca, torch.cat([state[:, :6], state[:, hidden]], 1), seed)
            # Sums in another order; worst seen 2.4e-6.
            assert torch.allclose(after[:, hidden], alone[:, 6:], atol=1e-5)
            color += share * (alone[:, 3:6] - state[:, 3:6])
        assert torch.allclose(after[:, 3:6], color, atol=1e-5) and torch.equal(after[:, :3], state[:, :3])
        state = after
    assert blended(ncas, [0.0, 0.5, 0.0, 0.0]) is models[1]


def test_bad_blends(models):
    for shares in ([1.0], [0.0, 0.0], [1.0, -0.5], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="shares must be one for each"):
            blended(models[:2], shares)
    for other in (automaton(0, preset="style-two-filters"), nca_fast.NCA.preset("clip")):
        with pytest.raises(ValueError, match="start from a picture and have one rule"):
            blended([models[0], other], [1, 1])


def test_models_with_shares(tmp_path):
    assert model_shares("runs/a") == {"runs/a": 1} == model_shares("runs/a:1")
    assert model_shares("a:0.5,b/c:1") == {"a": 0.5, "b/c": 1} and model_shares("zoo:etching") == {"zoo:etching": 1}
    (tmp_path / "a:2,b:3").mkdir()
    assert model_shares(str(tmp_path / "a:2,b:3")) == {str(tmp_path / "a:2,b:3"): 1}
    for wrong in ("a,b", "a:1,b", "a:1,a:2", "a:0,b:0", "a:1,b:-1", "a:1,:2", "a:1,b:nan", ":1"):
        with pytest.raises(ValueError, match="each with its share"):
            model_shares(wrong)


def test_commands_blend_and_refuse(tmp_path, models, photo, capsys):
    for name, nca in zip("ab", models, strict=False):
        nca.save_pretrained(tmp_path / name, provenance={"shown_steps": 2})
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    command = ["--backend", "reference", "--out", str(tmp_path / "x.png")]
    assert cli.main(["apply", f"{a}:1,{b}:0.5", str(photo), *command]) == 0
    apply(blended(models[:2], [2, 1]), photo, tmp_path / "y.png", 2, backend="reference")
    assert np.array_equal(read(tmp_path / "x.png"), read(tmp_path / "y.png"))
    assert cli.main(["apply", a, str(photo), "--strength", "1.5", *command]) == 2
    assert "strength must be from 0 to 1, but got 1.5" in capsys.readouterr().err
    assert cli.main(["apply", f"{a}:1,{b}", str(photo), *command]) == 2
    assert "each with its share" in capsys.readouterr().err
