"""Trainings of one automaton on several pictures: each state is judged by its own; runs go on to the same bits."""

import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from runs import assert_same_run
from test_training import TINY

from nca_fast import NCA, Rule, checkpoint, cli, features, ops, textures
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.settings import CanvasConfig
from nca_fast.canvas.start import find_paint, simplified
from nca_fast.code_biases import rolled_out, single_texture, units_at_work
from nca_fast.losses import style
from nca_fast.media.images import load_image, save_image
from nca_fast.rendering.render import render
from nca_fast.systems.swatches import for_textures, judged_each, turns
from nca_fast.systems.texture import GREY_WEIGHT, Texture, TextureSources
from nca_fast.training import pool, system
from nca_fast.training.endurance import Endurance
from nca_fast.training.loop import derived_seed
from nca_fast.training.session import run_training

SEVERAL = replace(TINY, iterations=6, disturb=1.0, video_steps=6, reseed_every=2, state_limit=1.2)


def colour(red, green, blue, seed=0):
    """A picture [3, 16, 16] of noise about a colour."""
    noise = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 0.2 - 0.1
    return (torch.tensor([red, green, blue])[:, None, None] + noise).clamp(0, 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("clay", "leaf", "sky")):
        save_image(colour(*torch.eye(3)[number].tolist(), seed=number), folder / f"{name}.png")
    return [str(folder / f"{name}.png") for name in ("clay", "leaf", "sky")]


def sources(pictures, names=()):
    return TextureSources(pictures[0], tuple(pictures[1:]), tuple(names))


def train(out, pictures, config=SEVERAL, names=(), **how):
    said = []
    result = run_training(Texture, sources(pictures, names), out, config, progress=False, say=said.append, **how)
    return said, result


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder, pictures)


def test_what_a_run_of_several_leaves(whole_run, pictures):
    folder, said, result = whole_run
    assert [line.split(":")[0] for line in said] == ["clay", "leaf", "sky", "features"]
    nca = NCA.from_pretrained(folder)
    assert list(nca.textures) == ["clay", "leaf", "sky"] and nca.rule.frozen == 3 and nca.rgb_channel == 3
    made = checkpoint.load_metadata(folder / "model.safetensors")["provenance"]
    assert [(t["name"], t["image"], t["crop"]) for t in made["textures"]] == [
        (name, path, 16) for name, path in zip(nca.textures, pictures, strict=True)
    ]
    assert load_image(folder / "texture.png").shape == (3, 64, 64) and (folder / "texture.mp4").exists()
    # Every texture keeps its states, whatever was disturbed, begun anew or run away.
    states = checkpoint.load(folder / "training.safetensors")[0]["pool"]
    assert torch.equal(states[:, :3], torch.eye(3).repeat(6, 1)[:, :, None, None].expand(18, 3, 16, 16))
    # The picture shows all three beside each other, the film's preview too.
    assert load_image(folder / "preview.png").shape[2] > 3 * 16


def test_neighbours_codes_are_never_seen(whole_run):
    """A filter that adds up to 0 has no gradient from a code that is the same everywhere, and so keeps no weight."""
    nca = NCA.from_pretrained(whole_run[0])
    maps = nca.layers[0].weight.detach().view(-1, 4, nca.rule.channels)[:, :, :3]
    assert (maps[:, 1:] == 0).all() and (maps[:, 0] != 0).all()
    fresh = for_textures(NCA.preset("texture"), ["a", "b"])
    assert fresh.rule.channels == 14 and (fresh.layers[0].weight.view(-1, 4, 14)[:, 1:, :2] == 0).all()


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, whole_run, pictures):
    train(tmp_path, pictures, replace(SEVERAL, iterations=3))
    said, _ = train(tmp_path, [None], replace(SEVERAL, iterations=6), resume=True)
    assert_same_run(tmp_path, whole_run[0])
    assert said == whole_run[1]
    train(tmp_path, pictures, replace(SEVERAL, iterations=6), ["clay", "leaf", "sky"], resume=True)  # as it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda pictures: ([*pictures[::-1]], ()),
            "image must be left out where a run goes on, but .*sky.png, .*are not",
        ),
        (lambda pictures: (pictures[:2], ()), "image must be left out where a run goes on"),
        (lambda pictures: ([None], ("a", "b", "c")), "names must be left out where a run goes on, but a, b, c are not"),
    ],
)
def test_other_pictures_or_names_are_refused_on_resume(whole_run, pictures, change, message):
    with pytest.raises(ValueError, match=message):
        train(whole_run[0], change(pictures)[0], None, change(pictures)[1], resume=True)


def test_damaged_facts_are_one_error_that_names_the_file(tmp_path, whole_run):
    tensors, metadata = checkpoint.load(whole_run[0] / "training.safetensors")
    for bad in ([{"name": "clay"}], 3, [{"name": "clay", "image": None, "crop": 0}]):
        checkpoint.save(tmp_path / "training.safetensors", tensors, dict(metadata) | {"textures": bad})
        with pytest.raises(ValueError, match="training.safetensors"):
            train(tmp_path, [None], None, resume=True)


def test_every_texture_has_hidden_units_of_its_own(whole_run):
    alone = NCA.preset("texture")
    fresh = for_textures(alone, ["a", "b", "c"])
    assert alone.rule.hidden == (96,) and fresh.rule.hidden == (160,)
    shared, own = list(range(64)), torch.arange(64, 160).view(3, 32).tolist()
    wanted = torch.tensor([shared + mine for mine in own])
    assert torch.equal(units_at_work(fresh), wanted)
    assert torch.equal(units_at_work(NCA.from_pretrained(whole_run[0])), wanted)  # no training turns one on
    with torch.no_grad():
        fresh.layers[0].weight += 0.5  # as far as Muon may take what has no gradient
    assert torch.equal(units_at_work(fresh), wanted)
    for rule in (replace(alone.rule, hidden=()), replace(alone.rule, activation="silu")):
        assert units_at_work(for_textures(NCA(rule), ["a", "b"])) is None
    deep = for_textures(NCA(replace(alone.rule, hidden=(6, 5))), ["a", "b"])
    assert deep.rule.hidden == (8, 5) and units_at_work(deep).tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6, 7]]


def test_units_of_another_texture_say_nothing():
    nca = for_textures(NCA.preset("texture"), ["a", "b"])
    with torch.no_grad():
        nca.layers[-1].weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        before = [nca(nca.initial_state(1, 8, 8, texture=name), 8, seed=0) for name in "ab"]
        nca.layers[-1].weight[:, 96:] *= 2  # what units of b say
        after = [nca(nca.initial_state(1, 8, 8, texture=name), 8, seed=0) for name in "ab"]
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("change", "folds"),
    [
        ({"output_bias": True}, True),
        ({"filters": ("sobel_x", "identity", ((0, 1, 0), (1, 1, 0), (0, 0, 0))), "maximum_window": 3}, True),
        ({"hidden": (6, 5)}, True),
        ({"hidden": (6, 5), "fire_shared": ()}, False),
        ({"padding": "zero"}, False),
        ({"hidden": ()}, False),
    ],
    ids=str,
)
def test_codes_as_biases_change_nothing(monkeypatch, change, folds, own):
    nca = for_textures(NCA(replace(NCA.preset("texture").rule, **{"hidden": (7,)} | change)), ["a", "b", "c"])
    generator = torch.Generator().manual_seed(0)
    off = units_at_work(nca)
    with torch.no_grad():
        for parameter in nca.parameters():
            fresh = torch.randn(parameter.shape, generator=generator) * (0.02 if own else 0.2)
            parameter.copy_(fresh.where(parameter > -2, parameter) if own else fresh)  # what turns units off stays
    units = units_at_work(nca)
    assert units is None if not own else torch.equal(units, off) if nca.rule.hidden else off is None
    states = torch.randn(4, nca.rule.channels, 6, 5, generator=generator)
    states[:, :3] = turns(nca, 4)
    width, rollout = [], ops.rollout
    monkeypatch.setattr(ops, "rollout", lambda x, *a, **o: width.append(x.shape[1]) or rollout(x, *a, **o))

    def grown(roll):
        inside = states.clone().requires_grad_()
        grown = roll(inside, steps=3, seed=5, first_sample=2, backend="reference")
        (grown[:, 3:] * torch.linspace(-1, 1, 30).view(6, 5)).sum().backward()
        gradients = [parameter.grad for parameter in nca.parameters()] + [inside.grad[:, 3:]]
        nca.zero_grad()
        return [grown.detach(), *gradients]

    wanted, found = grown(nca), grown(lambda x, **how: rolled_out(nca, x, units=units, **how))
    assert width == [nca.rule.channels, nca.rule.written if folds else nca.rule.channels]
    for one, other in zip(wanted, found, strict=True):  # another order of sums; the worst seen: 2.9e-7 of the largest
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(one.abs().max()))


def several(change=None, **options):
    """An automaton of three textures whose weights are large enough to say something, and whose units stay off."""
    nca = for_textures(NCA(replace(NCA.preset("texture").rule, **(change or {})), **options), ["a", "b", "c"])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in nca.parameters():
            fresh = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.copy_(fresh.where(parameter > -2, parameter))
    return nca


@pytest.mark.parametrize("change", [{}, {"hidden": (12, 5), "output_bias": True}, {"activation": "tanh"}], ids=str)
@pytest.mark.parametrize(("shares", "units"), [({"b": 1.0}, 1), ({"a": 2.0, "c": 1.0}, 2)], ids=["one", "blend"])
def test_one_of_several_as_an_automaton_of_its_own(change, shares, units):
    nca = several(change).double()
    alone = single_texture(nca, textures.mixed(nca.textures, shares))
    start = nca.initial_state(2, 7, 6, texture=shares)
    start[:, 3:] = torch.rand(2, 12, 7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
    with torch.no_grad():
        wanted = nca(start, 8, seed=3, backend="reference")
        found = alone(start[:, 3:].contiguous(), 8, seed=3, backend="reference")
    torch.testing.assert_close(found, wanted[:, 3:], rtol=0, atol=1e-12)
    assert not torch.allclose(found, start[:, 3:], atol=1e-3)
    assert torch.equal(nca.to_rgb(wanted).isfinite(), alone.to_rgb(found).isfinite()) and alone.rgb_channel == 0
    width = alone.rule.hidden[0]
    own = nca.rule.hidden[0] // 5  # of 3 parts of a texture alone, 2 are shared and each has one: 5 parts
    assert (alone.textures, alone.rule.frozen) == ({}, 0)
    assert width == (own * (2 + units) if change.get("activation") is None else nca.rule.hidden[0])


def test_what_has_no_single_texture_says_so():
    with pytest.raises(ValueError, match='its rule must have padding "circular", hidden units with biases'):
        single_texture(several({"padding": "zero"}), torch.ones(3))


def of_two(**change):
    """An automaton of two textures that no training made."""
    options = {name: change.pop(name) for name in ("maps", "rgb_channel") if name in change}
    rule = Rule(**({"channels": 12, "frozen": 2, "hidden": (8,)} | change))
    nca = NCA(rule, textures=textures.one_hot(["a", "b"]), **({"rgb_channel": 2} | options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in nca.parameters():
            parameter.normal_(0, 0.1, generator=generator)
        nca.layers[0].weight[0, :2] = -8.0  # which turns a unit off where the activation is relu
    return nca


@pytest.mark.parametrize(
    ("change", "single"),
    [
        ({"maps": {"normal": 3, "height": 1}}, True),
        ({"activation": "tanh"}, True),
        ({"filters": ("sobel_x", "laplacian")}, True),  # no filter sees a code
        ({"maximum_window": 3, "clamp": (-1, 0.5), "residual": False}, True),
        ({"rgb_channel": 0}, False),  # the code is shown
        ({"alive_channel": 1}, False),
        ({"alive_channel": 5}, False),
        ({"learned_filters": 2}, False),
        ({"filters": (), "learned_filters": 2}, False),
        ({"state_noise": 0.1}, False),
    ],
    ids=str,
)
def test_what_no_training_made_is_drawn_as_it_is(change, single):
    nca = of_two(**change)
    scene = Scene(nca, 9, 13, 4, seed=4, config=CanvasConfig(texture="b"))
    scene = replace(scene, paint=find_paint(scene))
    sooner = simplified(scene)
    assert (sooner.paint is None) == single
    wanted, found = render(scene), render(sooner)
    torch.testing.assert_close(sooner.nca.to_rgb(found), nca.to_rgb(wanted), rtol=0, atol=1e-6)  # the worst: 1.2e-7
    for name in nca.maps:
        torch.testing.assert_close(sooner.nca.to_map(found, name), nca.to_map(wanted, name), rtol=0, atol=1e-6)
    if not single:
        with pytest.raises(ValueError, match="texture must be left out for this automaton"):
            single_texture(nca, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize(
    ("settings", "simple"),
    [({}, True), ({"texture": "b:1,c:2"}, True), ({"texture_to": ("c",)}, False), ({"start": "noise"}, False)],
    ids=str,
)
def test_a_canvas_of_one_texture_is_drawn_by_what_knows_it_alone(settings, simple):
    nca = several()
    scene = Scene(nca, 16, 24, 12, seed=4, config=CanvasConfig(**settings))
    scene = replace(scene, paint=find_paint(scene))
    sooner = simplified(scene)
    assert (sooner.nca.rule.channels, sooner.paint is None) == ((12, True) if simple else (15, False))
    wanted, found = nca.to_rgb(render(scene)), sooner.nca.to_rgb(render(sooner))
    assert wanted.std() > 0.003
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # another order of sums; the worst seen: 0


def test_a_training_rolls_out_codes_as_biases(pictures, tmp_path, monkeypatch):
    work = Texture(SEVERAL.resolved(), sources(pictures), None, tmp_path)
    work.begin(work.model(), None)
    sizes, rollout = [], ops.rollout
    monkeypatch.setattr(
        ops, "rollout", lambda x, w, *a, **o: sizes.append((x.shape[1], w[0][0].shape[-2])) or rollout(x, w, *a, **o)
    )
    work.step(0, 0, mock.Mock(finite=None))
    narrow = (work.nca.rule.written, 96)  # no code, and no unit of another texture
    assert sizes == [narrow]
    monkeypatch.setattr(system.PoolSystem, "trial", lambda self: Endurance(1, 16, 64))
    work.endured(10**4)
    assert sizes[1:] == [narrow, (work.nca.rule.channels, 160)]  # the last state holds all codes


def test_every_state_is_judged_by_its_own_picture():
    nca = for_textures(NCA.preset("texture"), ["a", "b", "c"])
    targets = [colour(*c) for c in ((0.9, 0.2, 0.2), (0.2, 0.9, 0.2), (0.2, 0.2, 0.9))]
    extractor = features.load("patches")
    distances = [style.load("ot", extractor, target, 4) for target in targets]

    def judge(distance):
        return lambda states, drawn: {"style": distance(extractor(nca.to_rgb(states, clamp=False)), drawn=drawn)}

    def loss(states, seed=3):
        generator = torch.Generator().manual_seed(seed)
        judges = [(judge(distance), distance.draw) for distance in distances]
        return judged_each(judges, nca)(states, generator)["style"]

    states = torch.randn(4, nca.rule.channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    states[:, :3] = torch.eye(3)[[2, 0, 2, 1]][:, :, None, None]
    whole = loss(states)
    # The share of each process, whatever it holds, draws the same.
    torch.testing.assert_close(whole, loss(states[:2]) + loss(states[2:]), rtol=1e-5, atol=0)
    by_hand = {}
    for texture in range(3):
        generator = torch.Generator().manual_seed(3)
        drawn = [distance.draw(generator) for distance in distances][texture]
        mine = states[states[:, texture, 0, 0] == 1]
        by_hand[texture] = judge(distances[texture])(mine, drawn)["style"]
    torch.testing.assert_close(whole, sum(by_hand.values()), rtol=1e-5, atol=0)
    states[0, :3] = torch.eye(3)[0][:, None, None]
    assert abs(loss(states) - whole) > 0.01 * whole


@pytest.mark.parametrize(("size", "batch"), [(6, 3), (7, 6), (20, 9)])
def test_a_batch_has_equally_many_of_each_kind(size, batch):
    states = torch.arange(size).float()[:, None, None, None]
    firsts, seen = set(), set()
    for seed in range(60):
        drawn, taken = pool.Pool(states, 3).sample(batch, torch.Generator().manual_seed(seed))
        assert torch.equal(taken.flatten().long(), drawn) and len(set(drawn.tolist())) == batch
        assert (drawn % 3).bincount().tolist() == [batch // 3] * 3
        firsts.add(int(drawn[0]) % 3)  # which begins anew now and then
        seen |= set(drawn.tolist())
    assert firsts == {0, 1, 2} and seen == set(range(size))


def test_what_begins_anew_keeps_its_texture(pictures, tmp_path):
    work = Texture(SEVERAL.resolved(), sources(pictures), None, tmp_path)
    work.begin(work.model(), None)
    states = work.step.pool.states[[1, 5, 3]] + 0.5
    states[:, :3] -= 0.5
    fresh = work.restart(states, derived_seed(0, "restart"))
    assert torch.equal(fresh[:, :3], states[:, :3]) and (fresh[:, 3:] == 0).all()
    step = pool.PoolStep(work.nca, work.step.pool, None, work.start, 0, 1, None, restart=work.restart)
    assert torch.equal(step._fresh(states, 1), fresh)


def test_each_texture_has_states_and_fresh_starts_as_one_alone(pictures, tmp_path):
    config = replace(SEVERAL, pool_size=4, reseed_every=7).resolved()
    work = Texture(config, sources(pictures), None, tmp_path)
    work.begin(work.model(), None)
    assert len(work.step.pool) == 12 and work.step.batch_size == 3 * config.batch_size
    assert work.step.reseed_every == 3  # of any texture: each begins anew every 9 iterations
    work = Texture(replace(config, reseed_every=0), sources(pictures), None, tmp_path)
    work.begin(work.model(), None)
    assert work.step.reseed_every == 0


def test_one_picture_trains_as_it_always_did(tmp_path, pictures):
    """Nothing of the automaton, the run or its start states says that there could be more."""
    work = Texture(TINY.resolved(), TextureSources(pictures[0]), None, tmp_path)
    assert work.restart is None and work.large_starts == 1 and work.facts == {"image": pictures[0]}
    assert work.kept.keys() == {"target"} and work.model().config().keys() == {"rule", "rgb_channel", "start"}
    assert work.model().rule == NCA.preset("texture").rule


def test_all_textures_must_endure(pictures, tmp_path, monkeypatch):
    """An automaton of which one texture alone runs away."""
    work = Texture(SEVERAL.resolved(), sources(pictures), None, tmp_path)
    work.begin(work.model(), None)
    monkeypatch.setattr(system.PoolSystem, "trial", lambda self: Endurance(1, 16, 64))
    assert work.endured(10**4).runaway is None
    hidden, last = work.nca.layers
    for bad in range(3):
        with torch.no_grad():
            for parameter in work.nca.parameters():
                parameter.zero_()
            hidden.weight[:4, bad] = 1.0  # the identity filter's: sees the code
            last.weight[:, :4] = 0.1
        assert work.endured(10**4).runaway == 64, bad
    states = work.large_start(24, 0)
    assert states.shape[0] == 4 and torch.equal(states[:3, :3, 5, 5], torch.eye(3))
    assert set(states[3, :3].argmax(0).flatten().tolist()) == {0, 1, 2}
    with torch.no_grad():
        last.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(work.large_roll(states, 6, seed=1), work.nca(states, 6, seed=1), rtol=0, atol=1e-6)


def test_grey_pictures_make_an_automaton_that_draws_grey(tmp_path):
    grey = [torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(n)).expand(3, -1, -1) for n in (0, 1)]
    train(tmp_path, grey, replace(SEVERAL, video_steps=0), ["a", "b"])
    nca = NCA.from_pretrained(tmp_path)
    rgb = nca.to_rgb(nca(nca.initial_state(1, 24, 40, texture="b"), steps=20, seed=0))[0]
    assert rgb.std() > 0.005 and torch.equal(rgb[0], rgb[1]) and torch.equal(rgb[0], rgb[2])


def test_what_is_grey_beside_pictures_in_colour_pays_for_its_own(tmp_path, pictures):
    grey = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1)
    work = Texture(SEVERAL.resolved(), TextureSources(grey, (pictures[0],), ("grey", "clay")), None, tmp_path)
    work.begin(work.model(), None)
    states = work.start(2, 0)
    states[:, work.nca.rgb_channel] += torch.tensor([0.3, 0.6])[:, None, None]  # red; the second shall have colours
    chroma = work.objective()(states, torch.Generator())["chroma"]
    cells = states[0, 0].numel()
    assert float(chroma) == pytest.approx(GREY_WEIGHT * cells * (0.2**2 + 2 * 0.1**2), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (9, {}, "image must be at most 8 pictures for one automaton, but got 9"),
        (3, {"names": ("a", "b")}, "names must be one for each picture, but got 2 for 3"),
        (3, {"names": ("a", "b", "a")}, "names of textures must differ"),
        (3, {"names": ("a", "b", "c:d")}, "letters, digits"),
        (1, {"names": ("a",)}, "names must go with several pictures"),
        (3, {"config": replace(SEVERAL, preset="growing")}, "preset must be an automaton without frozen channels"),
    ],
)
def test_what_cannot_be_learned_is_said(tmp_path, pictures, count, options, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, (pictures * 3)[:count], **options)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_command_trains_renders_and_measures_each(tmp_path, pictures, capsys, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "no hub"))
    large = [tmp_path / f"{name}.png" for name in ("clay", "leaf")]
    for number, path in enumerate(large):
        save_image(torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(number)), path)
    run = str(tmp_path / "run")
    short = "--image-size 16 --image-crop 16 --iterations 2 --pool-size 4 --steps-min 2 --steps-max 4 --threads 1 "
    short += "--picture-steps 3 --video-steps 0 --backend reference"
    assert cli.main(["texture", *map(str, large), "--names", "a", "b", "--out", run, *short.split()]) == 0
    assert cli.main(["texture", "--out", run, "--resume", "--iterations", "3"]) == 0
    capsys.readouterr()
    assert cli.main(["score", run]) == 2
    assert f"names: --texture a --reference {large[0]}" in capsys.readouterr().err
    assert cli.main(["score", run, "--reference", str(large[0])]) == 2
    assert "texture must say of which of a, b" in capsys.readouterr().err
    assert cli.main(["score", run, "--texture", "c", "--reference", str(large[0])]) == 2
    assert "texture must be one that" in capsys.readouterr().err
    found = []
    for name in "ab":
        one = ["score", run, "--texture", name, "--reference", str(large[1]), "--seeds", "1", "--json"]
        assert cli.main(one) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["total"] != found[1]["total"]  # each is drawn
    # All at once, where the originals are scikit-image's, which are the only ones that are followed.
    made = checkpoint.load_metadata(tmp_path / "run" / "model.safetensors")["provenance"]
    for texture, name in zip(made["textures"], ("brick", "gravel"), strict=True):
        texture |= {"image": f"skimage:{name}", "crop": 256}
    NCA.from_pretrained(run).save_pretrained(run, made)
    assert cli.main(["score", run, "--seeds", "1", "--json"]) == 0
    each = json.loads(capsys.readouterr().out)["textures"]
    assert each["a"]["reference"]["picture"] == "skimage:brick" and each["b"]["reference"]["size"] == [32, 32]
    assert cli.main(["score", run, "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert f"{run}, b: 64 x 64 cells" in said and "mean score of 2 textures: " in said
