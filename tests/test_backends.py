"""The contract of backends, and the precision that a call has when it names none."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from rollouts import random_weights

from nca_fast import NCA, Rule, backends, reference, rollout
from nca_fast.backends import BACKENDS, Backend, Kernels, Place, choose, default_precision

RULE = Rule(channels=4, hidden=(6,))
GPU = torch.device("cuda", 0)


def functions(contract):
    return [name for name, value in vars(contract).items() if inspect.isfunction(value) and not name.startswith("_")]


def parameters(function):
    """Those without a default, which is what callers of the contract rely on."""
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.default is p.empty and p.name != "self"]


@pytest.mark.parametrize("contract", [Backend, Kernels])
@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_what_the_contract_names(name, contract):
    if name == "triton" and contract is Kernels:
        pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    module = BACKENDS[name] if contract is Backend else backends.kernels(name)
    assert functions(contract) and all(hasattr(module, constant) for constant in contract.__annotations__)
    for function in functions(contract):
        assert parameters(getattr(module, function)) == parameters(getattr(contract, function)), function
        assert getattr(contract, function).__doc__ and getattr(module, function).__doc__


def test_a_place_survives_the_schema_of_an_operator():
    place = Place(seed=-3, first_step=7, row=1, column=2, sample=3, height=40)
    assert Place(*list(place)) == place
    assert place.after(5) == place._replace(first_step=12)


def test_kernel_rules_hold_stencils_of_one_size_in_float32():
    rule = Rule(channels=5, hidden=(9, 7), filters=("identity", "sobel_x5/3"), frozen=2, maximum_window=3)
    small, large = rule.kernel_rule.stencils
    assert small[2] == (0, 0, 1, 0, 0) and {*small[0], *small[1]} == {0}
    assert torch.equal(torch.tensor(large, dtype=torch.float64), torch.tensor(rule.filters[1].kernel).double())
    assert rule.kernel_rule == Rule.from_json(rule.to_json()).kernel_rule
    assert (rule.kernel_rule.channels, rule.kernel_rule.hidden) == (5, (9, 7))


def test_bytes_per_cell():
    alive = Rule(channels=5, hidden=(8,), alive_channel=3)
    assert [backends.bytes_per_cell("cpu", rule) for rule in (RULE, alive)] == [0, 1]
    assert backends.bytes_per_cell("triton", RULE) == 64
    assert backends.bytes_per_cell("reference", RULE) == backends.bytes_per_cell("convolutions", RULE)
    assert backends.bytes_per_cell("reference", RULE) == 4 * (2 * 16 + 3 * 6 + 8 * 4)


def torch_with(monkeypatch, **switches):
    """torch.backends.cudnn with these switches alone; reading another one is an error."""
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(**switches))


def test_products_on_a_gpu_are_what_stock_convolutions_give(monkeypatch):
    assert default_precision(torch.device("cpu")) == default_precision(torch.device("meta")) == "fp32"
    for before, after in ((True, "fp16"), (False, "fp32")):  # up to torch 2.8
        torch_with(monkeypatch, allow_tf32=before)
        assert default_precision(GPU) == after
    for now, after in (("tf32", "fp16"), ("ieee", "fp32"), ("none", "fp32")):
        torch_with(monkeypatch, conv=SimpleNamespace(fp32_precision=now))
        assert default_precision(GPU) == after


@pytest.mark.parametrize("activation", ["elu", "gelu", "silu", "relu", "tanh", "leaky_relu"])
def test_units_that_float16_may_not_hold_are_not_multiplied_in_it(activation, monkeypatch):
    torch_with(monkeypatch, allow_tf32=True)
    scaled = activation in ("relu", "tanh", "leaky_relu")
    for hidden, other in (((6,), "tf32"), ((6, 5), "fp32")):
        rule = Rule(channels=4, hidden=hidden, activation=activation)
        assert default_precision(GPU, rule) == ("fp16" if scaled else other)
    assert default_precision(GPU, Rule(channels=4, hidden=())) == "fp16"
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    rule = Rule(channels=4, hidden=(6,), activation=activation)
    assert choose(None, rule, OnAGPU, None) == ("triton", default_precision(GPU, rule))
    assert choose("triton", rule, OnAGPU, "fp16") == ("triton", "fp16")


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has the old switch alone")
def test_this_torch_tells_of_both_switches():
    cudnn, found = torch.backends.cudnn, [default_precision(GPU)]
    try:
        cudnn.allow_tf32 = False
        found.append(default_precision(GPU))
        cudnn.allow_tf32 = True
        found.append(default_precision(GPU))
        cudnn.conv.fp32_precision = "ieee"
        found.append(default_precision(GPU))
    finally:
        cudnn.conv.fp32_precision = "tf32"
        cudnn.allow_tf32 = True
    assert found == ["fp16", "fp32", "fp16", "fp32"]


class OnAGPU:
    """What `choose` asks of a state; is_cuda is off, so that no GPU is asked what it is."""

    device, dtype, is_cuda = GPU, torch.float32, False


def test_precision_goes_with_the_backend_that_serves(monkeypatch):
    """The default of a GPU is for kernels there: the reference, which others are judged by, stays exact."""
    pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")
    torch_with(monkeypatch, allow_tf32=True)
    assert choose(None, RULE, OnAGPU, None) == ("triton", "fp16")
    assert choose("triton", RULE, OnAGPU, "fp32") == ("triton", "fp32")
    assert choose("reference", RULE, OnAGPU, None) == ("reference", "fp32")
    assert choose("convolutions", RULE, OnAGPU, None) == ("convolutions", "fp32")
    assert choose("reference", RULE, OnAGPU, "tf32") == ("reference", "tf32")
    backends._said.clear()
    with pytest.warns(UserWarning, match="stock convolutions, .*: .*at most 64 channels"):
        assert choose(None, Rule(channels=65, hidden=(6,)), OnAGPU, None) == ("convolutions", "fp32")


def test_devices_without_kernels_are_served_by_convolutions():
    backends._said.clear()
    with pytest.warns(UserWarning, match="stock convolutions, .*: there are no kernels for states on meta"):
        assert choose(None, RULE, torch.empty(1, 4, 5, 6, device="meta"), None) == ("convolutions", "fp32")


def test_a_warning_names_the_line_that_asked():
    backends._said.clear()
    wide = NCA(Rule(channels=4, hidden=(6,))).double()
    with pytest.warns(UserWarning, match="stock convolutions") as caught:
        wide(torch.zeros(1, 4, 5, 6, dtype=torch.float64), 1)
    assert [warning.filename for warning in caught] == [__file__]


def test_on_the_cpu_no_precision_is_float32():
    x, nca = torch.randn(1, 4, 5, 6), NCA(RULE, init_gain=1.0)
    weights = random_weights(RULE)
    for backend in ("cpu", "reference"):
        y = rollout(x, weights, RULE, 2, seed=0, backend=backend)
        assert torch.equal(y, rollout(x, weights, RULE, 2, seed=0, backend=backend, precision="fp32"))
        assert torch.equal(nca(x, 2, seed=0, backend=backend), nca(x, 2, seed=0, backend=backend, precision="fp32"))
    y = reference.rollout(x, weights, RULE, 2, seed=0)
    assert torch.equal(y, reference.rollout(x, weights, RULE, 2, seed=0, precision="fp32"))


def test_the_choice_can_be_traced():
    """As a compiled model on a GPU does it, without a break in its graph."""

    def scaled(x):
        name, precision = choose(None, RULE, OnAGPU, None)
        return x * (2.0 if (name, precision) == ("triton", default_precision(GPU)) else 1.0)

    x = torch.ones(3)
    assert torch.equal(torch.compile(scaled, fullgraph=True, backend="eager")(x), x * 2)
