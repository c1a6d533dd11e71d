"""CLIP: the real open_clip code, with the small model and with a ViT-B-32 of random weights; distances and cutouts."""

import hashlib
import json
import math
import warnings
from pathlib import Path

import fresh
import pytest
import torch
from torch.nn import functional as F

from nca_fast import cli, prompts
from nca_fast.choices import small_words
from nca_fast.features.clip import SMALL_CLIP, ClipModel
from nca_fast.features.torchvision_compat import import_torchvision
from nca_fast.losses import clip as losses


@pytest.fixture(scope="session")
def small():
    return ClipModel()


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """A file with random weights for ViT-B-32, in half precision, as published ones are."""
    import_torchvision()
    import open_clip

    torch.manual_seed(3)
    network = open_clip.create_model("ViT-B-32", load_weights=False)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save({name: tensor.half() for name, tensor in network.state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def large(weights_file):
    return ClipModel("ViT-B-32", weights_file)


# The small model


def test_small_model_is_small_and_complete():
    files = {path.name: path.stat().st_size for path in SMALL_CLIP.iterdir()}
    assert set(files) == {"open_clip_config.json", "open_clip_model.safetensors", "merges.txt.gz", "words.txt"}
    assert sum(files.values()) <= 4 * 2**20


def test_every_word_of_the_small_model_is_one_token(small):
    assert len(small_words()) >= 300
    assert all(len(small.tokenizer.encode(word)) == 1 for word in small_words())


def test_small_model_tells_patterns_apart(small):
    """Zero-shot, on pictures that are not those of its training: exact stripes, checks and single colours."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    blue, white = (torch.tensor(c).reshape(3, 1, 1) for c in ([0.1, 0.2, 0.9], [1.0, 1.0, 1.0]))
    red = torch.tensor([0.9, 0.1, 0.1]).reshape(3, 1, 1).expand(3, 64, 64)
    masks = {
        "horizontal blue and white stripes": y // 4 % 2,
        "vertical blue and white stripes": x // 4 % 2,
        "blue and white checks": (x // 8 + y // 8) % 2,
    }
    pictures = torch.stack([torch.where(mask.bool(), blue, white) for mask in masks.values()] + [red])
    texts = [*masks, "plain red texture"]
    similar = F.normalize(small(pictures), dim=1) @ F.normalize(small.encode_text(texts), dim=1).T
    assert similar.argmax(1).tolist() == [0, 1, 2, 3]


def test_unknown_words_are_named(small):
    with pytest.raises(ValueError, match=r"not 'cat', 'strips' in 'a red cat with strips' \(did you mean .*stripes"):
        small.encode_text(["a red cat with strips"])


@pytest.mark.parametrize(
    "text", ["The cat's <12> &amp;amp; dots, it_is ~~ don\u00e2\u0080\u0099t", "", " RED\n", "e\u0301 \u00bd"]
)
def test_words_are_those_of_the_tokenizer(small, text):
    assert prompts.words(text) == small.tokenizer.pat.findall(small.tokenizer.clean_fn(text))


@pytest.mark.parametrize("text", ["", "  "])
def test_a_prompt_must_say_something(small, text):
    with pytest.raises(ValueError, match="a prompt must say something"):
        small.encode_text([text])


def test_long_prompts_are_not_cut_off(small):
    with pytest.raises(ValueError, match="at most 14 tokens for this model, but .* has 20"):
        small.encode_text(["red " * 20])


def test_case_does_not_matter(small):
    assert torch.equal(small.encode_text(["Red Bricks"]), small.encode_text(["red bricks"]))


def test_pretrained_alone_is_refused():
    with pytest.raises(ValueError, match="pretrained must go with a model, but got 'openai' alone"):
        ClipModel(None, "openai")


# Any open_clip model


def test_vectors_are_those_of_open_clip(large, weights_file):
    """Text, and pictures through open_clip's own preprocessing."""
    import open_clip
    from PIL import Image

    network, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=str(weights_file))
    network.eval()
    assert large.size == (224, 224)
    assert large.width == 512
    picture = torch.rand(3, 224, 224).mul(255).round().div(255)
    image = Image.fromarray(picture.mul(255).round().byte().permute(1, 2, 0).numpy())
    with torch.no_grad():
        wanted = network.encode_image(preprocess(image)[None])
        found = large(picture[None])
        texts = network.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a nose"]))
    # channels_last changes the order of sums: 3e-6 at worst in vectors of length 30.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(large.encode_text(["a nose"]), texts)


def test_weights_are_frozen_and_gradients_reach_pixels(large):
    assert not any(parameter.requires_grad for parameter in large.parameters())
    assert not large.train().network.training
    picture = torch.rand(1, 3, 224, 224, requires_grad=True)
    large(picture).square().sum().backward()
    assert picture.grad.abs().sum() > 0


def test_raw_input_is_not_normalised(small):
    picture = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(small(picture), small((picture - small.mean) / small.std, normalize=False))
    assert small.mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_pictures_of_another_size_are_refused(small):
    with pytest.raises(ValueError, match=r"pictures must be \[N, 3, 64, 64\], but got \[1, 3, 32, 32\]"):
        small(torch.rand(1, 3, 32, 32))


def test_unknown_names(tmp_path):
    with pytest.raises(
        ValueError, match="model must be a name of open_clip.*but got 'ViT-B-33'; did you mean ViT-B-32"
    ):
        ClipModel("ViT-B-33", "openai")
    with pytest.raises(ValueError, match="pretrained must name the weights of ViT-B-32: one of openai, laion400m_e31"):
        ClipModel("ViT-B-32")
    with pytest.raises(ValueError, match="pretrained must be a tag of ViT-B-32 .* or a file, but 'opnai' is neither"):
        ClipModel("ViT-B-32", "opnai")
    with pytest.raises(ValueError, match="pretrained must be left out for model 'local-dir:x'"):
        ClipModel("local-dir:x", "openai")
    with pytest.raises(ValueError, match="must be a folder with open_clip_config.json"):
        ClipModel(f"local-dir:{tmp_path}")


def test_quick_gelu_goes_with_the_tag(monkeypatch):
    """open_clip only warns of a mismatch, and the vectors are then subtly wrong."""
    import_torchvision()
    import open_clip

    asked = {}

    def create_model(name, **options):
        asked.update(options)
        raise OSError("stopped here")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    for name, tag, wanted in (("ViT-B-32", "openai", True), ("ViT-B-32", "laion2b_s34b_b79k", False)):
        with pytest.raises(OSError, match="stopped here"):
            ClipModel(name, tag)
        assert asked["force_quick_gelu"] is wanted
    with pytest.raises(ValueError, match="without QuickGELU, but ViT-B-32-quickgelu has it.* Take model ViT-B-32"):
        open_clip.pretrained._PRETRAINED["ViT-B-32-quickgelu"]["laion2b"] = {"url": "x", "quick_gelu": False}
        try:
            ClipModel("ViT-B-32-quickgelu", "laion2b")
        finally:
            del open_clip.pretrained._PRETRAINED["ViT-B-32-quickgelu"]["laion2b"]


def test_quick_gelu_of_a_file(tmp_path, monkeypatch):
    """OpenAI's weights were trained with it: by the file's digest or its place; else both kinds are named."""
    import_torchvision()
    import open_clip

    asked = {}

    def create_model(name, **options):
        asked.update(options)
        raise OSError("stopped here")

    def quick(model, path):
        with pytest.raises(ValueError, match="stopped here"):
            ClipModel(model, path)
        return asked["force_quick_gelu"]

    monkeypatch.setattr(open_clip, "create_model", create_model)
    weights = {"visual.proj": torch.zeros(2)}
    unknown, openai = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save(weights, unknown)
    torch.save(weights | dict.fromkeys(("input_resolution", "context_length", "vocab_size"), torch.tensor(1)), openai)
    with pytest.raises(ValueError, match="b.pt' must hold the weights of ViT-B-32 alone, .* give pretrained openai"):
        ClipModel("ViT-B-32", openai)
    with pytest.warns(UserWarning, match="a.pt' does not say .* model ViT-B-32 is without.*take model ViT-B-32-quick"):
        assert quick("ViT-B-32", unknown) is False
    cache = tmp_path / "models--timm--vit_base_patch32_clip_224.openai" / "snapshots" / "1"
    cache.mkdir(parents=True)
    (cache / "open_clip_model.safetensors").write_bytes(unknown.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quick("ViT-B-32-quickgelu", unknown) is True
        assert quick("ViT-B-32", cache / "open_clip_model.safetensors") is True
        digest = hashlib.sha256(unknown.read_bytes()).hexdigest()
        offered = open_clip.pretrained._PRETRAINED["ViT-B-32"]
        for url in (f"https://x/clip/models/{digest}/ViT-B-32.pt", f"https://x/vit-{digest[:8]}.pt"):
            for wanted in (True, False):
                monkeypatch.setitem(offered, "test", {"url": url, "quick_gelu": wanted})
                assert quick("ViT-B-32", unknown) is wanted
        with pytest.raises(ValueError, match="a.pt' must go with a model without QuickGELU.*Take model ViT-B-32"):
            ClipModel("ViT-B-32-quickgelu", unknown)
        monkeypatch.delitem(offered, "test")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), openai)
    with pytest.raises(ValueError, match="is a TorchScript program, as OpenAI publishes: give pretrained openai"):
        ClipModel("ViT-B-32", openai)


def test_absent_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        OSError, match="'openai' is not in the cache of open_clip and could not be downloaded.*small one"
    ):
        ClipModel("ViT-B-32", "openai")


def test_damaged_and_foreign_weights_are_refused(tmp_path, weights_file):
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged.pt' must hold the weights of ViT-B-32, but open_clip cannot load it"):
        ClipModel("ViT-B-32", damaged)
    with pytest.raises(ValueError, match="must hold the weights of RN50"):
        ClipModel("RN50", SMALL_CLIP / "open_clip_model.safetensors")


def test_a_command_trains_with_a_named_model(weights_file, tmp_path):
    """Whole: the weights are loaded, guide, and are found again. The small model does not know "nose"."""
    out = tmp_path / "run"
    options = "--image-size 16 --iterations 2 --pool-size 2 --batch-size 1 --steps-min 2 --steps-max 2 --cutouts 1"
    options += " --picture-steps 2 --video-steps 0 --preview-every 9 --threads 1 --backend reference"
    model = ["--model", "ViT-B-32", "--pretrained", str(weights_file)]
    with pytest.warns(UserWarning, match="does not say whether it was trained with QuickGELU"):
        assert cli.main(["clip", "a nose", "--out", str(out), *model, *options.split()]) == 0
        assert cli.main(["clip", "--out", str(out), "--resume", "--iterations", "3"]) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert all(0 < line["clip"] < float("inf") for line in lines)
    assert (out / "clip.png").stat().st_size > 0


# Prompts and distances


@pytest.mark.parametrize(
    ("prompt", "text", "weight"),
    [
        ("noses", "noses", 1.0),
        ("blurry:-0.5", "blurry", -0.5),
        ("a: b:2", "a: b", 2.0),
        ("16:9:1", "16:9", 1.0),
        ("a painting: red", "a painting: red", 1.0),
        ("x : 1e-1 ", "x", 0.1),
    ],
)
def test_parse_prompt(prompt, text, weight):
    assert prompts.parse_prompt(prompt) == (text, weight)


@pytest.mark.parametrize("prompt", ["", ":2", "  :1"])
def test_parse_prompt_without_text(prompt):
    with pytest.raises(ValueError, match="a prompt must be text, or text:weight"):
        prompts.parse_prompt(prompt)


def test_distances_are_their_formulas():
    v = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    p = torch.tensor([[0.0, 5.0]])
    one = torch.ones(1)
    assert losses.PromptDistance(p, one, "dot")(v).tolist() == [0.0, -10.0]
    assert losses.PromptDistance(p, one, "cosine")(v).tolist() == pytest.approx([1.0, 0.0])
    # A right angle: 2 arcsin(sqrt(2) / 2)^2 = 2 (pi / 4)^2.
    assert losses.PromptDistance(p, one, "spherical")(v).tolist() == pytest.approx([math.pi**2 / 8, 0.0])


def test_weights_are_scaled_by_their_sum():
    v, p = torch.randn(4, 6), torch.randn(3, 6)
    distance = losses.PromptDistance(p, torch.tensor([2.0, -1.0, 1.0]), "cosine")
    single = [losses.PromptDistance(p[i : i + 1], torch.ones(1), "cosine")(v) for i in range(3)]
    torch.testing.assert_close(distance(v), (2 * single[0] - single[1] + single[2]) / 2)
    pushed = losses.PromptDistance(p[:1], torch.tensor([-3.0]), "cosine")
    torch.testing.assert_close(pushed(v), -single[0])


@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_descent_leads_to_the_prompt(distance):
    p = torch.randn(1, 8)
    v = torch.randn(1, 8).requires_grad_()
    loss = losses.PromptDistance(p, torch.ones(1), distance)
    before = F.cosine_similarity(v, p).item()
    for _ in range(30):
        (grad,) = torch.autograd.grad(loss(v).sum(), v)
        v = (v - 0.3 * grad).detach().requires_grad_()
    assert F.cosine_similarity(v, p).item() > max(before, 0.5)


@pytest.mark.parametrize("angle", [0.0, math.pi])
def test_spherical_gradient_is_finite_at_its_ends(angle):
    v = torch.tensor([[math.cos(angle), 0.0]], requires_grad=True)
    losses.PromptDistance(torch.tensor([[1.0, 0.0]]), torch.ones(1), "spherical")(v).sum().backward()
    assert torch.isfinite(v.grad).all()


def test_bad_prompt_distances():
    p = torch.randn(2, 4)
    with pytest.raises(ValueError, match="distance must be one of dot, cosine, spherical, but got 'l2'"):
        losses.PromptDistance(p, torch.ones(2), "l2")
    with pytest.raises(ValueError, match=r"must not cancel out, but \[1.0, -1.0\] sum to 0"):
        losses.PromptDistance(p, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"targets must be \[P, D\] and weights \[P\]"):
        losses.PromptDistance(p, torch.ones(3))


# Cutouts


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_cutouts_are_parts_of_the_torus():
    rgb = torch.rand(2, 3, 12, 16)
    squares = losses.cutouts(rgb, (6, 6), 5, generator(), smallest=0.5, largest=0.5).reshape(5, 2, 3, 6, 6)
    torus = rgb.repeat(1, 1, 2, 2)
    for k in range(5):
        places = [
            (y, x) for y in range(12) for x in range(16) if torch.equal(torus[:, :, y : y + 6, x : x + 6], squares[k])
        ]
        assert len(places) == 1  # and the same place for both pictures


def test_cutouts_without_wrapping_stay_inside():
    rgb = torch.arange(10.0).expand(1, 3, 10, 10)
    squares = losses.cutouts(rgb, (5, 5), 40, generator(), smallest=0.5, largest=0.5, wrap=False)
    assert (squares[..., 1:] > squares[..., :-1]).all()
    assert {int(square[0, 0, 0]) for square in squares} == set(range(6))


def test_cutouts_of_all_sizes_are_resized():
    squares = losses.cutouts(torch.rand(1, 3, 20, 20), (8, 8), 6, generator(), smallest=0.2, largest=1.0)
    assert squares.shape == (6, 3, 8, 8)


def test_cutouts_are_disturbed_only_when_asked():
    flat = torch.full((1, 3, 8, 8), 0.3)
    options = {"size": (8, 8), "count": 4, "generator": generator()}
    assert torch.equal(losses.cutouts(flat, **options), flat.expand(4, 3, 8, 8))
    assert (losses.cutouts(flat, **options, noise=0.1).std(dim=(1, 2, 3)) > 0).all()
    shades = losses.cutouts(flat, **options, jitter=0.2)[:, 0, 0, 0]
    assert len(set(shades.tolist())) == 4
    assert (shades - 0.3).abs().max() <= 0.2 * 0.2 + 0.1 + 1e-6


def test_cutouts_are_decided_by_their_generator():
    rgb = torch.rand(1, 3, 9, 9)
    options = {"size": (4, 4), "count": 3, "noise": 0.1, "jitter": 0.1}
    first = losses.cutouts(rgb, generator=generator(1), **options)
    torch.rand(3)
    assert torch.equal(first, losses.cutouts(rgb, generator=generator(1), **options))
    assert not torch.equal(first, losses.cutouts(rgb, generator=generator(2), **options))


@pytest.mark.parametrize(("count", "smallest", "largest"), [(0, 0.5, 1), (1, 0, 1), (1, 0.9, 0.5), (1, 0.5, 1.5)])
def test_bad_cutouts(count, smallest, largest):
    with pytest.raises(ValueError, match="cutouts must be at least 1 of sizes in"):
        losses.cutouts(torch.rand(1, 3, 8, 8), (4, 4), count, generator(), smallest=smallest, largest=largest)


def test_whole_is_bilinear():
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)
    assert losses.whole(ramp, (4, 8))[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])


def test_flatness_is_its_formula():
    """One picture of deviation 0.1 in one colour of three, one above the bound, one flat."""
    rows = torch.tensor([0.4, 0.6]).repeat(4)[:, None].expand(8, 8)
    grey = torch.full((8, 8), 0.5)
    rgb = torch.stack([torch.stack([rows, grey, grey]), torch.stack([rows, rows, rows]), torch.stack([grey] * 3)])
    one, two, three = (float(losses.flatness(picture[None], 0.08)) for picture in rgb)
    assert one == pytest.approx(64 * (1 - 0.1 / 3**0.5 / 0.08), rel=1e-4)
    assert two == 0.0
    assert three == pytest.approx(64, rel=2e-3)  # the constant under the root counts as a deviation of 1e-4
    assert float(losses.flatness(rgb, 0.08)) == pytest.approx(one + three, rel=1e-6)


def test_fringes_are_edges_of_colour_alone():
    """Grey edges are free; of a red one beside black, red has 2/3 and green and blue have -1/3 without the mean."""
    edge = torch.zeros(1, 3, 4, 6)
    edge[..., 2:5] = 1
    assert float(losses.fringes(edge)) == pytest.approx(0, abs=1e-5)
    red = edge * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    assert float(losses.fringes(red)) == pytest.approx(2 * 4 * (2 / 3 + 1 / 3 + 1 / 3), rel=1e-5)


def test_faint_patterns_grow_and_flat_ones_have_a_finite_slope():
    faint = 0.5 + 1e-3 * torch.randn(1, 3, 8, 8, generator=generator())
    faint.requires_grad_()
    losses.flatness(faint, 0.06).backward()
    centred = faint.detach() - faint.detach().mean((2, 3), keepdim=True)
    assert float((faint.grad * centred).sum()) < 0
    flat = torch.full((1, 3, 8, 8), 0.3, requires_grad=True)
    losses.flatness(flat, 0.06).backward()
    assert torch.isfinite(flat.grad).all()


def test_open_clip_is_imported_late():
    code = "import sys, nca_fast, nca_fast.losses.clip; sys.exit('open_clip' in sys.modules)"
    assert fresh.run(["-c", code], cwd=Path(__file__).parents[1]).returncode == 0
