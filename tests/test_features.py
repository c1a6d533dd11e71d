import urllib.error

import fresh
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from nca_fast import features
from nca_fast.features.patches import Patches
from nca_fast.features.pixels import Normalize
from nca_fast.features.random_vgg import RandomVGG
from nca_fast.features.torchvision_compat import import_torchvision
from nca_fast.features.torus import convolved, wrap_pad
from nca_fast.features.vgg import VGG

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


def rgb(batch=2, height=32, width=32, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# 1x1 and 1xN: the torus wraps onto itself; pad 2 on 2 rows: the whole axis is copied; 5x7: ragged.
@pytest.mark.parametrize(("height", "width", "pad"), [(1, 1, 1), (1, 4, 1), (2, 3, 2), (5, 7, 2), (6, 6, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_wrap_pad_is_circular_padding(height, width, pad, layout):
    x = torch.randn(2, 3, height, width, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    expected = F.pad(x, (pad,) * 4, mode="circular")
    assert torch.equal(wrap_pad(x, pad), expected)
    weight = torch.randn_like(expected)
    (grad,) = torch.autograd.grad((wrap_pad(x, pad) * weight).sum(), x)
    (expected_grad,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-13, atol=1e-13)  # up to nine terms in another order
    assert torch.autograd.gradcheck(lambda x: wrap_pad(x, pad), x)


# Few inputs, whose gradient is a product and a sum of planes, and more; both memory orders.
@pytest.mark.parametrize(("channels", "size"), [(3, 5), (4, 3), (6, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_of_a_torus_is_that_of_a_padded_picture(channels, size, layout):
    x = torch.randn(2, channels, 5, 7, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    convolution = torch.nn.Conv2d(channels, 9, size, dtype=torch.float64).requires_grad_(False)

    def by_pytorch(x):
        return F.conv2d(F.pad(x, (size // 2,) * 4, mode="circular"), convolution.weight, convolution.bias).relu()

    found, expected = convolved(x, convolution), by_pytorch(x)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)  # the order of sums
    weight = torch.randn_like(expected)
    grads = [torch.autograd.grad((value * weight).sum(), x)[0] for value in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)  # up to 225 terms in another order; worst seen 9e-16


@pytest.mark.parametrize("name", ["random", "patches"])
def test_what_every_extractor_keeps(name):
    module = features.load(name)
    assert not module.training and not any(parameter.requires_grad for parameter in module.parameters())
    x = rgb() * 2 - 0.5  # values outside [0, 1] are not clipped
    maps = module(x)
    assert all(found.dtype == torch.float32 and found.ndim == 4 and len(found) == 2 for found in maps)
    torch.testing.assert_close(maps[0], (x - MEAN) / STD, rtol=1e-6, atol=1e-6)  # rounding
    # A picture's maps do not depend on its batch; convolutions may sum in another order, 1e-5 of order-1 maps.
    for whole, alone in zip(maps, module(x[1:]), strict=True):
        torch.testing.assert_close(whole[1:], alone, rtol=1e-5, atol=1e-5)
    # The torus: a picture rolled by whole pooling cells gives rolled maps.
    for index, (found, rolled) in enumerate(zip(maps, module(x.roll((8, 16), dims=(2, 3))), strict=True)):
        scale = 32 // found.shape[2]
        expected = found.roll((8 // scale, 16 // scale), dims=(2, 3))
        torch.testing.assert_close(rolled, expected, rtol=1e-5, atol=1e-5, msg=f"map {index}")
    assert [found.dtype for found in module.double()(x.double())] == [torch.float64] * len(maps)


@pytest.mark.parametrize(
    "module", [RandomVGG(widths=(4, 5), depth=2), Patches(size=3, scales=2)], ids=["random", "patches"]
)
def test_gradients_reach_the_picture(module):
    module.double()
    x = rgb(1, 4, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(module(x)), x)


def test_random_vgg_computes_the_network_it_describes():
    module = RandomVGG(widths=(6, 5), depth=2).double()
    x = rgb(2, 9, 8).double()
    pixels = (x - MEAN) / STD
    maps, y = [pixels], pixels
    for index, block in enumerate(module.blocks):
        y = F.avg_pool2d(y, 2) if index else y
        for layer, convolution in enumerate(block):
            y = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="circular"), convolution.weight, convolution.bias).relu()
            if layer == 0:
                maps.append(y)
    assert [tuple(found.shape) for found in maps] == [(2, 3, 9, 8), (2, 6, 9, 8), (2, 5, 4, 4)]
    for found, expected in zip(module(x), maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # MEAN and STD are float32 here


def test_random_vgg_is_fixed_by_its_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = features.load("random", seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    again, other = features.load("random", seed=3), features.load("random", seed=4)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]) and not torch.equal(value, other.state_dict()[key])


def test_random_vgg_maps_are_of_one_scale():
    # White noise is not what the network was calibrated on; still no map may be more than a few times another.
    stds = torch.stack([found.std() for found in RandomVGG((16, 32, 64, 64), depth=2)(rgb(2, 64, 64))[1:]])
    assert stds.max() / stds.min() < 8, stds
    # On noise like its own, half of all values are positive and the variance of relu(normal) is 0.34.
    from nca_fast.features.pixels import pink_noise

    noise = pink_noise(torch.Generator().manual_seed(9), 4, 64)
    for found in RandomVGG()(noise * STD + MEAN)[1:]:
        assert 0.3 < (found > 0).float().mean() < 0.7 and 0.4 < found.std() < 0.8


def test_patches_hold_the_neighbourhood():
    module = Patches(size=3, scales=2)
    x = rgb(1, 6, 8)
    pixels, fine, coarse = module(x)
    assert fine.shape == (1, 27, 6, 8) and coarse.shape == (1, 27, 3, 4)
    for channel, i, j, row, column in [(0, 0, 0, 0, 0), (1, 2, 1, 5, 3), (2, 1, 2, 3, 7), (2, 1, 1, 4, 4)]:
        expected = pixels[0, channel, (row + i - 1) % 6, (column + j - 1) % 8]
        assert fine[0, channel * 9 + i * 3 + j, row, column] == expected
    assert torch.equal(coarse[:, [4, 13, 22]], F.avg_pool2d(pixels, 2))


def test_wrong_pictures():
    module = features.load("random")
    for shape in ((3, 32, 32), (1, 4, 32, 32), (0, 3, 32, 32)):
        with pytest.raises(ValueError, match=r"rgb must be \[B, 3, H, W\], but got"):
            module(torch.zeros(shape))
    with pytest.raises(TypeError, match="rgb must be floating point .*divide bytes by 255"):
        module(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"at least 4x4 for these features, but got \(4, 3\)"):
        module(torch.zeros(1, 3, 4, 3))
    with pytest.raises(ValueError, match="on one device, but got meta and cpu"):
        module(torch.zeros(1, 3, 8, 8, device="meta"))
    assert Normalize(1)(torch.zeros(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="features must be one of .*, dictionary, vgg16, vgg19, but got 'vgg'"):
        features.load("vgg")
    with pytest.raises(ValueError, match="weights are for vgg16 and vgg19, but features are 'patches'"):
        features.load("patches", weights=tmp_path)
    with pytest.raises(ValueError, match="widths and depth must be at least 1"):
        RandomVGG(widths=())
    with pytest.raises(ValueError, match="size must be odd and at least 3"):
        Patches(size=4)
    with pytest.raises(ValueError, match="scales must be at least 1"):
        Patches(scales=0)


# ---- VGG


@pytest.fixture(scope="module")
def vgg_states():
    """Random weights in torchvision's layout, without the classifier's 480 MB."""
    models = import_torchvision().models
    states = {}
    for name in ("vgg16", "vgg19"):
        with torch.device("meta"):
            model = getattr(models, name)(weights=None).features
        generator = torch.Generator().manual_seed(1)
        states[name] = {
            f"features.{key}": torch.randn(value.shape, generator=generator) * (2 / max(1, value[0].numel())) ** 0.5
            for key, value in model.state_dict().items()
        }
    return states


def write(state, path):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("name", "file", "layers"),
    [("vgg16", "a.pth", (1, 6, 11, 18, 25)), ("vgg19", "a.safetensors", (1, 6, 11, 20, 29))],
)
def test_vgg_gives_the_maps_of_torchvisions_network(tmp_path, vgg_states, name, file, layers):
    state = vgg_states[name]
    module = features.load(name, weights=write(state | {"classifier.0.bias": torch.zeros(2)}, tmp_path / file))
    assert not module.train().training and not any(parameter.requires_grad for parameter in module.parameters())
    reference = getattr(import_torchvision().models, name)
    with torch.device("meta"):
        reference = reference(weights=None).features
    reference.load_state_dict({key.removeprefix("features."): value for key, value in state.items()}, assign=True)
    x = rgb(1, 32, 48)
    y = (x - MEAN) / STD
    expected = [y]
    with torch.no_grad():
        for index, layer in enumerate(reference):
            y = layer(y)
            if index in layers:
                expected.append(y.clone())
    maps = module(x.requires_grad_())
    assert [found.shape[1] for found in maps] == [3, 64, 128, 256, 512, 512]
    assert tuple(maps[-1].shape[2:]) == (2, 3)
    for found, wanted in zip(maps, expected, strict=True):
        # float32 sums of up to 4608 terms in two memory layouts, relative to the map's scale; worst seen 1e-6.
        torch.testing.assert_close(found / wanted.std(), wanted / wanted.std(), rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(maps[-1].sum(), x)
    assert grad.abs().sum() > 0 and torch.isfinite(grad).all()


def test_vgg_reads_the_features_module_alone_and_half_precision(tmp_path, vgg_states):
    state = {key.removeprefix("features."): value.half() for key, value in vgg_states["vgg16"].items()}
    module = VGG("vgg16", weights=write(state, tmp_path / "a.safetensors"))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert torch.equal(module.features[0].weight, state["0.weight"].float())


def test_vgg_takes_weights_from_torchvisions_cache(tmp_path, monkeypatch, vgg_states):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    write(vgg_states["vgg16"], tmp_path / "checkpoints" / "vgg16-397923af.pth")
    assert torch.equal(features.load("vgg16").features[0].weight, vgg_states["vgg16"]["features.0.weight"])


def test_vgg_without_weights_and_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    message = (
        r"vgg19 needs trained weights.*vgg19-dcbb9e9d.pth.*no network in tests.*Fetch https.*--weights FILE.*'random'"
    )
    with pytest.raises(OSError, match=message):
        features.load("vgg19")


def test_bad_weights_files(tmp_path, vgg_states):
    def refused(path, match):
        with pytest.raises(ValueError, match=match):
            features.load("vgg16", weights=path)

    refused(tmp_path / "none.pth", "must be an existing file, but there is none .*features='random'")
    (tmp_path / "a.txt").write_text("x")
    refused(tmp_path / "a.txt", "must end in .pth, .pt or .safetensors")
    for ending in ("pth", "safetensors"):
        whole = write({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / f"whole.{ending}")
        refused(whole, r"must hold torchvision's vgg16: features.0.bias should be \(64,\), but there is nothing")
        (tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[:900])
        refused(tmp_path / f"cut.{ending}", "cannot be read, it is damaged, cut short")
        (tmp_path / f"text.{ending}").write_text("hello\n" * 99)
        refused(tmp_path / f"text.{ending}", "cannot be read, it is damaged, cut short")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "must hold a state dict, but holds a list")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pickled.pth")  # code inside: weights_only refuses it
    refused(tmp_path / "pickled.pth", "cannot be read.*no state dict")
    vgg11_like = vgg_states["vgg16"] | {"features.5.weight": torch.zeros(256, 128, 3, 3)}
    refused(
        write(vgg11_like, tmp_path / "b.safetensors"),
        r"features.5.weight should be \(128, 64, 3, 3\), but there is \(256",
    )


# ---- imports


def test_import_torchvision_works_in_a_fresh_process_and_only_mends_what_is_broken():
    code = (
        "import torch, sys\n"
        "from nca_fast.features import torchvision_compat\n"
        "assert 'torchvision' not in sys.modules\n"
        "torchvision = torchvision_compat.import_torchvision()\n"
        "assert torchvision.models.vgg16 and torchvision_compat.import_torchvision() is torchvision\n"
        "import torchvision.transforms\n"
        "from torchvision.extension import _has_ops\n"
        "assert (torchvision_compat._library is None) == _has_ops()\n"
    )
    fresh.run(["-c", code], check=True)


def test_extractors_are_light_until_used():
    code = (
        "import sys, torch\n"
        "from nca_fast import features\n"
        "features.load('random'); features.load('patches')\n"
        "import nca_fast.losses.style, nca_fast.losses.regularizers, nca_fast.files\n"
        "heavy = {'torchvision', 'PIL', 'skimage', 'imageio_ffmpeg', 'scipy', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    fresh.run(["-c", code], check=True)


def test_a_torchvision_that_is_broken_otherwise_is_reported(monkeypatch):
    from nca_fast.features import torchvision_compat

    def fail(error):
        def import_module(name):
            raise error

        monkeypatch.setattr(torchvision_compat.importlib, "import_module", import_module)

    fail(ModuleNotFoundError("No module named 'torchvision'"))
    with pytest.raises(ImportError, match="needs torchvision: pip install torchvision"):
        import_torchvision()
    fail(RuntimeError("something else"))
    with pytest.raises(ImportError, match="does not work with torch .*something else"):
        import_torchvision()


def test_extractors_read_nothing_from_their_device(tmp_path, vgg_states):
    """On the meta device there are no numbers to read, and none of another device fit in."""
    vgg = VGG("vgg16", weights=write(vgg_states["vgg16"], tmp_path / "a.safetensors"))
    half = features.load("random", dtype=torch.float16)
    for module in (features.load("random"), features.load("patches"), vgg, half):
        x = rgb().to("meta").requires_grad_()
        maps = module.to("meta")(x)
        sum(found.sum() for found in maps).backward()
        assert all(found.is_meta for found in maps) and x.grad.is_meta


# ---- 16 bits


def slopes(module, x, weight):
    """The maps of a picture, and the gradient of a sum of all of them with random weights."""
    x = x.clone().requires_grad_()
    maps = module(x)
    generator = torch.Generator().manual_seed(5)
    sum((weight * torch.randn(map.shape, generator=generator) * map).sum() for map in maps).backward()
    return [map.detach() for map in maps], x.grad


# float16 is off by 2**-11 of a number, bfloat16 by 2**-8; units switch elsewhere, which gradients see.
@pytest.mark.parametrize(
    "name,dtype,values,gradients",
    [
        ("random", torch.float16, 4e-3, 0.03),
        ("random", torch.bfloat16, 3e-2, 0.15),
        ("vgg16", torch.float16, 4e-3, 0.03),
    ],
)
def test_sixteen_bits_are_near_thirty_two(tmp_path, vgg_states, name, dtype, values, gradients):
    """Whatever weight the losses have, and whatever the network's own weights are."""
    weights = None
    if name == "vgg16":  # networks for pictures of bytes have first weights that are that large
        state = vgg_states["vgg16"] | {"features.0.weight": 300 * vgg_states["vgg16"]["features.0.weight"]}
        weights = write(state, tmp_path / "large.safetensors")
    exact, half = (features.load(name, weights=weights, dtype=d) for d in (torch.float32, dtype))
    picture = 6 * rgb(1, 24, 16) - 3  # a state may leave [0, 1]
    for weight in (1e-12, 1e12):
        (maps, grad), (near, near_grad) = (slopes(module, picture, weight) for module in (exact, half))
        assert torch.equal(maps[0], near[0])  # the pixels
        for a, b in zip(maps, near, strict=True):
            assert b.dtype == torch.float32 and (a - b).norm() <= values * a.norm()
        # In float64, whose squares of small numbers are none of nothing.
        assert (grad.double() - near_grad.double()).norm() <= gradients * grad.double().norm()


def test_sixteen_bits_where_no_loss_looks_or_none_slopes():
    module = features.load("random", dtype=torch.float16)
    x = rgb().requires_grad_()
    module(x)[2].sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    x.grad = None
    (module(x)[2] * 0).sum().backward()
    assert (x.grad == 0).all()
    (module(x)[3] * torch.nan).sum().backward()
    assert x.grad.isnan().any()  # it is seen, not hidden
