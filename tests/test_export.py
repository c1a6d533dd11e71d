"""Automata for other engines: JSON that reads back to the same bits, ONNX models that are the reference."""

import json

import numpy as np
import pytest
import torch

from nca_fast import NCA, Rule, activations, checkpoint, cli, conformance, fire_mask
from nca_fast.code_biases import single_texture
from nca_fast.commands import export as command
from nca_fast.ops import rollout
from nca_fast.systems.swatches import for_textures
from nca_fast.textures import mixed, parse_shares

onnx = pytest.importorskip("onnx", reason="needs pip install 'nca-fast[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'nca-fast[export]'")

# An automaton has one set of weights and one fire rate, and an exported one no frames.
VECTORS = [v for v in conformance.load_all() if not (v.per_sample or v.rate_map or v.frames)]
ELSEWHERE = {"origin": (0, 0), "first_sample": 0, "canvas_height": None}


def with_weights(rule, weights):
    nca = NCA(rule)
    names = {f"layers.{i}": pair for i, pair in enumerate(weights[bool(rule.learned_filters) :])}
    state = {f"{name}.weight": weight for name, (weight, _) in names.items()}
    state |= {f"{name}.bias": bias for name, (_, bias) in names.items() if bias is not None}
    nca.load_state_dict(state | ({"kernels": weights[0][0]} if rule.learned_filters else {}))
    return nca


def opened(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session, x, seed, first_step):
    """The state that onnxruntime makes of x."""
    feed = {"state": x.float().numpy()}
    if len(session.get_inputs()) > 1:
        feed |= {"seed": np.array(seed, np.uint64).view(np.int64), "first_step": np.array(first_step)}
    (y,) = session.run(None, feed)
    return torch.from_numpy(y)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector.name for vector in VECTORS])
def test_models_answer_the_known_questions(vector):
    """Worst seen: 0.29 of a tolerance. Those of parts of a canvas are asked at its origin, which models have alone."""
    from nca_fast.export.steps import model

    x, weights, _, _ = conformance.inputs(vector)
    where = vector.where | ELSEWHERE
    exact = rollout(x, weights, vector.rule, vector.steps, **where, backend="reference")
    if where == vector.where:
        assert conformance.share(exact, vector.answers["y"]) <= 1
    made = model(with_weights(vector.rule, weights), vector.steps).SerializeToString()
    found = run(opened(made), x, where["seed"], where["first_step"])
    assert found.shape == exact.shape
    assert (found - exact).abs().max().item() <= vector.answers["y"]["tolerance"]


@pytest.mark.parametrize("activation", ["leaky_relu(0.2)", *activations.NAMES])
def test_activations(activation):
    """And an alive mask that ends at the edges of a torus, which no vector has."""
    from nca_fast.export.steps import model

    torch.manual_seed(2)
    alive = {"alive_channel": 1, "alive_padding": "zero"}
    rule = Rule(channels=4, hidden=(8,), activation=f"{activation}/2", update_activation=activation, **alive)
    nca = NCA(rule, init_gain=3.0)
    x = torch.rand(1, 4, 9, 8) - 0.8
    weights = [(w.detach().double(), None if b is None else b.detach().double()) for w, b in nca.weights]
    exact = rollout(x.double(), weights, rule, 1, seed=4, backend="reference")
    found = run(opened(model(nca, 1).SerializeToString()), x, 4, 0)
    assert torch.equal(found == 0, exact == 0) and 0 < (exact == 0).sum() < exact.numel()
    assert (found - exact).abs().max() <= 32 * 2**-24 * exact.abs().max()


@pytest.mark.parametrize("shared", [("channel",), (), ("batch", "channel"), ("height",), ("channel", "width")])
def test_masks_have_the_bits_of_python(shared):
    from nca_fast.export.steps import model

    rule = Rule(channels=4, hidden=(), frozen=1, fire_rate=0.3, fire_shared=shared, output_bias=True)
    one = NCA(rule)
    torch.nn.init.ones_(one.layers[0].bias)
    session = opened(model(one, 1).SerializeToString())
    for seed, step in ((0, 0), (2**64 - 1, 2**32 - 1), (2**63 + 5, 7), (0xDEADBEEF, 2**31)):
        fired = run(session, torch.zeros(3, 4, 33, 41), seed, step)[:, 1:] == 1
        assert torch.equal(
            fired, fire_mask(seed, step, 3, 33, 41, 0.3, shared=shared, channels=4, frozen=1).expand(fired.shape)
        )


@pytest.mark.parametrize(("preset", "frozen"), [("texture", 0), ("growing", 0), ("style", 3)])
def test_presets(preset, frozen, tmp_path):
    """Sixteen steps at once, and one sixteen times, through the command; at sizes that are fixed and not."""
    torch.manual_seed(1)
    nca = NCA.preset(preset)
    with torch.no_grad():
        for p in nca.layers[-1].parameters():
            p.normal_(std=0.1 / p.shape[-1] ** 0.5)
    run_folder = str(nca.save_pretrained(tmp_path / "run"))
    picture = {"image": torch.rand(3, 20, 24)} if nca.start == "image" else {}
    x = nca.initial_state(2, 20, 24, **picture)
    weights = [(w.detach().double(), None if b is None else b.detach().double()) for w, b in nca.weights]
    exact = rollout(x.double(), weights, nca.rule, 16, seed=9, first_step=3, backend="reference")
    assert (exact - x).abs().max() > 1e-3
    sixteen, one = tmp_path / "sixteen.onnx", tmp_path / "one.onnx"
    fixed = ["--batch", "2", "--height", "20", "--width", "24"]
    assert cli.main(["export", run_folder, "--to", "onnx", "--steps", "16", "--out", str(sixteen)]) == 0
    assert cli.main(["export", run_folder, "--to", "onnx", *fixed, "--out", str(one)]) == 0
    shape = onnx.load(one).graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, nca.rule.channels, 20, 24]
    y, session = x, opened(one.read_bytes())
    for n in range(16):
        y = run(session, y, 9, 3 + n)
    at_once = run(opened(sixteen.read_bytes()), x, 9, 3)
    rounding = 16 * 16 * 2**-24 * exact.abs().max()  # as the tolerances of the vectors: 16 a step
    assert (at_once - exact).abs().max() <= rounding and (y - exact).abs().max() <= rounding
    assert torch.equal(at_once[:, :frozen], x[:, :frozen])


@pytest.mark.parametrize(("name", "shown"), [("bricks", 256), ("learned", 37)])
def test_json_reads_back_to_the_same_bits(name, shown, tmp_path):
    if name == "learned":
        nca = NCA(Rule(channels=4, hidden=(5,), learned_filters=2, frozen=1), init_gain=0.3, textures={"a": [1.0]})
        model = str(nca.save_pretrained(tmp_path / "run", {"shown_steps": shown}))
    else:
        model = f"zoo:{name}"
        nca = NCA.from_pretrained(model)
    out = tmp_path / "made.json"
    out.write_text("old")
    assert cli.main(["export", model, "--to", "json", "--out", str(out)]) == 0
    page = json.loads(out.read_text())
    rule = Rule.from_json(json.dumps(page["rule"]))
    weights = [
        (torch.tensor(w["weight"]), None if w["bias"] is None else torch.tensor(w["bias"])) for w in page["layers"]
    ]
    weights = [(torch.tensor(page["kernels"]), None), *weights] if "kernels" in page else weights
    read = with_weights(rule, weights)
    assert rule == nca.rule and (page["format"], page["version"]) == ("nca_fast automaton", 1)
    assert page | nca.config() | {"rule": page["rule"]} == page
    for key, tensor in nca.state_dict().items():
        assert torch.equal(tensor.view(torch.int32), read.state_dict()[key].view(torch.int32)), key
    assert page["shown_steps"] == shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--to onnx --out x.json", "out must end in .onnx with --to onnx, but got 'x.json'."),
        ("--to json --steps 3 --out x.json", "steps must be left out with --to json, but got 3."),
        ("--to json --dtype float16 --out x.json", "dtype must be left out with --to json, but got float16."),
        (
            "--to safetensors --texture moss --out x.safetensors",
            "texture must be left out for run, which knows one alone, but got 'moss'.",
        ),
        ("--to onnx --steps 0 --out x.onnx", "steps must be from 1 to 2147483647, but got 0."),
        (
            "--to onnx --height 1 --out x.onnx",
            "height must be at least 2 for a rule with padding 'reflect', but got 1.",
        ),
    ],
)
def test_what_is_refused(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    NCA(Rule(channels=4, padding="reflect")).save_pretrained("run")
    assert cli.main(["export", "run", *words.split()]) == 2
    assert capsys.readouterr().err == f"nca-fast: error: {sentence}\n"
    assert not list(tmp_path.glob("x.*"))


def test_without_onnx(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    NCA(Rule(channels=4)).save_pretrained(tmp_path)
    assert cli.main(["export", str(tmp_path), "--to", "onnx", "--out", str(tmp_path / "x.onnx")]) != 0
    assert "onnx must be installed for --to onnx: pip install 'nca-fast[export]'." in capsys.readouterr().err


def test_a_model_of_half_the_size(tmp_path, capsys):
    nca, facts = NCA(Rule(channels=4, hidden=(64,)), init_gain=1.0), {"system": "texture", "shown_steps": 40}
    path = nca.save_pretrained(tmp_path / "run", facts)
    small, whole = tmp_path / "small.safetensors", tmp_path / "new" / "whole.safetensors"
    for out, words in ((small, ["--dtype", "float16"]), (whole, [])):
        assert cli.main(["export", str(path), "--to", "safetensors", *words, "--out", str(out)]) == 0
    assert f"nca-fast render {small} --out small.png" in capsys.readouterr().out
    for name, weight in nca.state_dict().items():
        assert torch.equal(NCA.from_pretrained(small).state_dict()[name], weight.half().float())
        assert torch.equal(NCA.from_pretrained(whole).state_dict()[name], weight)
    saved = 2 * sum(weight.numel() for weight in nca.state_dict().values())
    assert abs(whole.stat().st_size - small.stat().st_size - saved) <= 32  # names of types differ in length
    assert checkpoint.facts_of(small).items() >= facts.items()
    with torch.no_grad():
        nca.layers[0].weight[0, 0] = 1e5
    path = nca.save_pretrained(tmp_path / "run", facts)
    capsys.readouterr()
    before = small.read_bytes()
    assert cli.main(["export", str(path), "--to", "safetensors", "--dtype", "float16", "--out", str(small)]) == 2
    assert "layers.0.weight goes to 1e+05 and torch.float16 to 6.55e+04: take torch.float32." in capsys.readouterr().err
    assert small.read_bytes() == before


@pytest.mark.parametrize("shares", ["moss", "moss:1,clay:3"])
def test_one_texture_of_several(tmp_path, shares):
    nca = for_textures(NCA.preset("texture"), ["clay", "moss"])
    with torch.no_grad():
        nca.layers[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    known = [{"name": name, "image": f"{name}.png", "crop": 100 + len(name)} for name in ("clay", "moss")]
    facts = {"system": "texture", "textures": known, "config": {"image_size": 40, "image_crop": None}}
    path, out = nca.save_pretrained(tmp_path / "two", facts), tmp_path / "moss.safetensors"
    assert cli.main(["export", str(path), "--to", "safetensors", "--texture", shares, "--out", str(out)]) == 0
    alone, made = NCA.from_pretrained(out), checkpoint.facts_of(out)
    wanted = single_texture(nca, mixed(nca.textures, parse_shares(shares, nca.textures)))
    for name, weight in wanted.state_dict().items():
        assert torch.equal(alone.state_dict()[name], weight)
    assert alone.rule == wanted.rule and "textures" not in made
    image, crop = ("moss.png", 104) if shares == "moss" else (None, None)
    assert (made.get("image"), made["config"]["image_crop"], made["config"]["image_size"]) == (image, crop, 40)
