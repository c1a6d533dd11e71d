"""What people do to a module and around it: defaults, devices, modes, export, parametrizations, quantisation."""

import copy
import io
from contextlib import contextmanager

import fresh
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from nca_fast import NCA, Rule, fire_mask, reference, rollout
from nca_fast.ops import advance

RULE = Rule(channels=4, hidden=(6,))
KERNELS = pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])


def fresh_rule(**more):
    """A rule that no cache has seen."""
    fresh_rule.count += 1
    return Rule(channels=4, hidden=(6,), filters=("identity", f"sobel_x/{fresh_rule.count}"), **more)


fresh_rule.count = 100


@contextmanager
def default_dtype(dtype):
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(old)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


CHANGED = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "with device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
}


def served(backend):
    if backend == "triton":
        pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    return {"backend": backend, "seed": 3, "precision": "fp32"}, device


@KERNELS
@pytest.mark.parametrize("changed", CHANGED)
def test_defaults_of_pytorch_change_nothing_then_or_later(changed, backend):
    """Caches are filled under the changed default, and used under it and after it."""
    how, device = served(backend)
    rule = fresh_rule()
    nca = NCA(rule, init_gain=1.0, start="noise").to(device)
    x = torch.randn(1, 4, 3, 5).to(device)
    with CHANGED[changed]():
        buffers = x.clone(), torch.empty_like(x)
        z, _ = advance(*buffers, nca.weights, rule, 2, **how)
        y, mask = nca(x, 2, **how), fire_mask(1, 2, 1, 3, 5, 0.5, device=device)
        start = nca.initial_state(1, 3, 5, seed=1)
    assert torch.equal(y, nca(x, 2, **how)) and torch.equal(z, y) and y.dtype == torch.float32
    assert torch.equal(mask, fire_mask(1, 2, 1, 3, 5, 0.5, device=device))
    assert torch.equal(start, nca.initial_state(1, 3, 5, seed=1))
    torch.testing.assert_close(y, rollout(x, nca.weights, rule, 2, **how | {"backend": "reference"}))
    nca(x, 2, **how).sum().backward()
    assert nca.layers[0].weight.grad.isfinite().all()


@KERNELS
@pytest.mark.parametrize("changed", ["float64", "bfloat16", "default device", "with device"])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_under_changed_defaults(changed, window, backend):
    how, device = served(backend)
    rule = fresh_rule(maximum_window=window)
    nca, x = NCA(rule, init_gain=1.0).to(device), torch.randn(1, 4, 3, 5).to(device)
    results = []
    for around in (CHANGED[changed], lambda: torch.enable_grad()):
        nca.zero_grad()
        with around():
            nca(x, 2, checkpoint_every=2, **how).square().sum().backward()
        results.append([p.grad.clone() for p in nca.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_module_made_under_a_default_has_its_type_and_device():
    with default_dtype(torch.float64):
        nca = NCA(RULE, start="noise")
    assert nca.initial_state(1, 3, 4).dtype == torch.float64
    assert torch.equal(nca.initial_state(1, 3, 4), NCA(RULE, start="noise").initial_state(1, 3, 4).double())
    with torch.device("meta"):
        nca = NCA(RULE, start="zeros")
    assert nca.device.type == "meta" and nca.initial_state(1, 3, 4).is_meta
    assert nca(nca.initial_state(1, 3, 4), 2, backend="reference").shape == (1, 4, 3, 4)
    nca.to_empty(device="cpu")
    assert nca.device.type == "cpu"


def test_inference_tensors_go_in_and_come_out():
    nca = NCA(RULE, init_gain=1.0)
    with torch.inference_mode():
        x = nca(nca.initial_state(1, 5, 6) + 0.5, 2, seed=0)
        inside = NCA(RULE, init_gain=1.0)
        y = inside(x, 2, seed=0)
    assert y.is_inference()
    with torch.no_grad():
        assert torch.equal(inside(x, 2, seed=0), y)
    nca(
        x.clone(), 2, seed=0
    ).sum().backward()  # inference tensors themselves cannot be saved for a gradient, says PyTorch


class Painter(nn.Module):
    """A model of which an automaton is a part."""

    def __init__(self):
        super().__init__()
        self.into, self.nca = nn.Conv2d(3, 4, 1), NCA(RULE, init_gain=1.0)

    def forward(self, image):
        return self.nca.to_rgb(self.nca(self.into(image), 3, seed=5))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model, image = Painter(), torch.rand(2, 3, 6, 7)
    sizes = {"image": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    for dynamic in (None, sizes):
        exported = torch.export.export(model, (image,), dynamic_shapes=dynamic, strict=strict)
        assert torch.equal(exported.module()(image), model(image))
    larger = torch.rand(3, 3, 9, 11)
    assert torch.equal(exported.module()(larger), model(larger))
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    assert torch.equal(torch.export.load(buffer).module()(larger), model(larger))


def test_export_of_masks_that_are_drawn():
    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.nca = NCA(RULE, init_gain=1.0)

        def forward(self, x):
            return self.nca(x, 3)

    model, x = Drawn(), torch.randn(1, 4, 8, 8)
    run = torch.export.export(model, (x,)).module()
    assert not torch.equal(run(x), run(x))
    torch.manual_seed(4)
    y = run(x)
    torch.manual_seed(4)
    assert torch.equal(model(x), y)


def trains(nca, backend):
    """A step of SGD moves the loss, so the gradient reached what the weights are computed from, and they are fresh."""
    x, how = torch.randn(2, 4, 6, 7), {"seed": 0, "backend": backend}
    optimizer = torch.optim.SGD(nca.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        y = nca(x, 2, **how)
        want = reference.rollout(x, nca.eval().weights, RULE, 2, seed=0)
        nca.train()
        torch.testing.assert_close(y, want, rtol=1e-2, atol=1e-2)  # spectral norm goes on estimating
        loss = y.square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.norm() > 0 for p in nca.parameters() if p.requires_grad)
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


class LowRank(nn.Module):
    """LoRA: a frozen weight plus a product of two thin matrices."""

    def __init__(self, weight, rank=2):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) * 0.1)
        self.b = nn.Parameter(torch.randn(weight.shape[0], rank) * 0.1)

    def forward(self, weight):
        return weight + self.b @ self.a


def low_rank(layer):
    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    layer.parametrizations.weight.original.requires_grad_(False)


CHANGES = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "low rank": low_rank,
    "the older weight norm": nn.utils.weight_norm,
    "the older spectral norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", amount=0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_computed(change, backend, tmp_path):
    nca = NCA(RULE, init_gain=1.0)
    for layer in nca.layers:
        CHANGES[change](layer)
    trains(nca, backend)
    nca.eval()
    x = torch.randn(1, 4, 5, 6)
    nca.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(NCA.from_pretrained(tmp_path)(x, 2, seed=0), nca(x, 2, seed=0))


def test_copies_of_parametrized_automata():
    nca, x = NCA(RULE, init_gain=1.0), torch.randn(1, 4, 5, 6)
    low_rank(nca.layers[0])
    again, want = copy.deepcopy(nca), nca(x, 2, seed=0)
    assert torch.equal(again(x, 2, seed=0), want)
    parametrize.remove_parametrizations(again.layers[0], "weight")
    assert torch.equal(again(x, 2, seed=0), want)


def test_making_a_start_state_estimates_no_norm():
    nca = NCA(RULE, init_gain=1.0)
    parametrizations.spectral_norm(nca.layers[0])
    before = nca.layers[0].parametrizations.weight[0]._u.clone()
    nca.initial_state(1, 4, 4).to(nca.device)
    assert torch.equal(nca.layers[0].parametrizations.weight[0]._u, before)


class Adapter(nn.Module):
    """How adapters of other libraries replace a layer."""

    def __init__(self, base):
        super().__init__()
        self.base, self.more = base, nn.Linear(base.in_features, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, y):
        return self.base(y) + self.more(y)


def test_layers_with_a_forward_of_their_own_are_refused():
    """Their weight alone would be read, without a word, and what they add would never be trained."""
    x = torch.randn(1, 4, 5, 6)
    nca = NCA(RULE)
    nca.layers[0] = Adapter(nca.layers[0])
    with pytest.raises(TypeError, match=r"layers\[0\] must be an nn.Linear.*Adapter.*parametrize"):
        nca(x, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_quantised_weights_are_refused():
    x, nca = torch.randn(1, 4, 5, 6), NCA(RULE)
    quantised = torch.ao.quantization.quantize_dynamic(nca, {nn.Linear})
    for call in (lambda: quantised(x, 2), lambda: quantised.initial_state(1, 4, 4)):
        with pytest.raises(TypeError, match=r"layers\[0\] must be an nn.Linear.*dequantise"):
            call()
    (w, b), last = nca.weights
    for weight in (torch.quantize_per_tensor(w.detach(), 0.01, 0, torch.qint8), torch.zeros(w.shape, dtype=torch.int8)):
        with pytest.raises(TypeError, match="must be floating point, but got .*dequantize"):
            rollout(x, [(weight, b), last], RULE, 2)


def test_float8_weights_are_numbers():
    x, weights = torch.randn(1, 4, 5, 6), NCA(RULE, init_gain=1.0).weights
    small = [(w.detach().to(torch.float8_e4m3fn), b) for w, b in weights]
    y = rollout(x, small, RULE, 2, seed=0)
    assert torch.equal(y, rollout(x, [(w.float(), b) for w, b in small], RULE, 2, seed=0))


FIRST = """
import torch
from nca_fast import NCA
torch.set_default_dtype(torch.float64)
nca = NCA.preset("texture").float()
x = torch.rand(1, 12, 8, 8, dtype=torch.float32)
nca(x, 2, backend="cpu")
torch.set_default_dtype(torch.float32)
print(nca(x, 2, backend="cpu").isfinite().all().item())
"""


def test_the_first_call_of_a_process_under_another_default():
    result = fresh.run(["-c", FIRST])
    assert result.stdout.strip() == "True", result.stderr
