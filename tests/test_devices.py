"""Which device a name stands for, with GPUs that are not there, and moves that do not wait."""

import os
from types import SimpleNamespace

import pytest
import torch

from nca_fast import Rule, backends, devices, processes
from nca_fast.compute import ComputeConfig

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, of which the process has the second; kernels that serve all but one rule."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # and taken back
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch, "empty", lambda *shape, device: SimpleNamespace(device=device))
    refusals = {Rule(channels=70): "the kernels take at most 64 channels."}
    monkeypatch.setattr(backends, "refusal", lambda backend, rule, device, precision: refusals.get(rule))


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick("auto", [Rule()]) == devices.pick("cpu") == CPU
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device {name} needs a GPU that PyTorch can use, but there is none"):
            devices.pick(name)
    for name in ("gpu", "mps", "meta", "cuda:", "cuda:x"):
        with pytest.raises(ValueError, match=f"device must be auto, cpu, cuda or cuda:NUMBER, but got '{name}'"):
            devices.pick(name)
    assert devices.describe(CPU) is None


def test_auto_takes_the_gpu_of_this_process(gpus):
    assert devices.pick("auto", [Rule()]) == devices.pick("cuda") == torch.device("cuda:1")
    assert devices.pick("cuda:0") == torch.device("cuda:0")
    assert devices.pick("auto", [Rule()], backend="cpu") == CPU
    assert devices.pick("auto", [Rule(channels=70)], backend="reference") == torch.device("cuda:1")
    assert devices.describe(torch.device("cuda:1")) == "computing on GPU 1 (cuda:1)"
    assert ComputeConfig().pick(Rule()) == torch.device("cuda:1")


def test_auto_says_why_a_gpu_is_left_alone(gpus):
    with pytest.warns(UserWarning, match="GPU 1 is not used: the kernels take at most 64 channels"):
        assert devices.pick("auto", [Rule(), Rule(channels=70)]) == CPU


def test_what_cannot_be(gpus):
    with pytest.raises(ValueError, match="device must be cuda:0 to cuda:1 on this machine, but got cuda:2"):
        devices.pick("cuda:2")
    with pytest.raises(ValueError, match="backend triton must serve on device cuda:1, but cannot: the kernels take at"):
        devices.pick("cuda", [Rule(channels=70)], backend="triton")
    with pytest.raises(ValueError, match="precision must be one of fp32, tf32, fp16, bf16, but got 'fp8'"):
        ComputeConfig(precision="fp8").check_compute()


def test_several_processes_take_a_gpu_each(gpus, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert devices.pick("cuda") == devices.pick("auto", [Rule()]) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device must be cuda where several processes share the work.*cuda:0"):
        devices.pick("cuda:0")


def test_a_kernel_that_cannot_be_built_is_said_at_once(monkeypatch):
    def fail():
        raise RuntimeError("the C++ kernel needs a compiler.")

    monkeypatch.setattr(backends.BACKENDS["cpu"], "load", fail)
    with pytest.raises(ValueError, match="backend cpu must serve on device cpu, but cannot: .* needs a compiler"):
        devices.pick("cpu", [Rule()], backend="cpu")


def test_moves_to_a_gpu_go_through_pinned_memory(monkeypatch):
    """The host waits for a copy from memory that is not pinned, and for one that is not told otherwise."""
    calls = []

    def to(self, device, non_blocking=False):
        calls.append((self is pinned, non_blocking))
        return self

    tensor, pinned = torch.arange(3), torch.arange(3)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned)
    monkeypatch.setattr(torch.Tensor, "to", to)
    assert devices.moved(tensor, torch.device("cuda:1")) is pinned
    assert devices.moved(tensor, CPU) is tensor
    assert calls == [(True, True), (False, True)]
    away = SimpleNamespace(is_cpu=False, device=torch.device("cuda:0"), to=lambda device, non_blocking: non_blocking)
    assert devices.moved(away, CPU) is False  # or it would be read before it is there


def test_a_generator_on_a_gpu_is_fixed_by_that_of_the_cpu(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    assert devices.generator_on(CPU, generator) is generator
    made = []

    def fake(device):
        made.append(SimpleNamespace(device=device))
        made[-1].manual_seed = lambda seed: setattr(made[-1], "seed", seed) or made[-1]
        return made[-1]

    real = torch.Generator
    monkeypatch.setattr(torch, "Generator", fake)
    for seed in (1, 1, 2):
        devices.generator_on(torch.device("cuda:0"), real().manual_seed(seed))
    assert made[0].seed == made[1].seed != made[2].seed and made[0].device == torch.device("cuda:0")


def test_networks_multiply_sixteen_bits_where_rollouts_do(monkeypatch):
    gpu = torch.device("cuda:0")
    for default in ("fp16", "fp32"):
        monkeypatch.setattr(backends, "default_precision", lambda device, default=default: default)
        found = {precision: devices.network_dtype(gpu, precision) for precision in (None, *backends.PRECISIONS)}
        assert found.pop(None) == (torch.float16 if default == "fp16" else torch.float32)
        sixteen = {"fp16": torch.float16, "bf16": torch.bfloat16}
        assert found == dict.fromkeys(("fp32", "tf32"), torch.float32) | sixteen
    assert {devices.network_dtype(CPU, precision) for precision in (None, "fp16", "bf16")} == {torch.float32}


def test_cublas_is_told_to_repeat_itself_on_a_gpu_alone(gpus, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    devices.pick("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    devices.pick("cuda")
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    devices.pick("auto", [Rule()])
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"  # the user's own
