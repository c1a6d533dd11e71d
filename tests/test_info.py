"""What `nca-fast info` says, and that it says the rest where something is broken."""

import ast
import json
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import nca_fast
from nca_fast import Rule, backends, cli, control_groups, devices
from nca_fast.commands import info
from nca_fast.presets import PRESETS

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Packages are not imported (open_clip takes seconds), unless a test says so; nor is the interpreter on."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(info, "import_torchvision", lambda: None)
    kept = info.import_module
    monkeypatch.setattr(info, "import_module", lambda name: None if name in ("open_clip", "sklearn") else kept(name))


def shown(capsys, *options):
    assert cli.main(["info", *options]) == 0
    return capsys.readouterr().out


def test_what_it_says(capsys, monkeypatch):
    monkeypatch.setenv("NCA_FAST_ISA", "native")
    page = json.loads(shown(capsys, "--json"))
    assert list(page) == list(info.PROBES)
    assert page["nca_fast"]["version"] == nca_fast.__version__ and page["torch"]["version"] == torch.__version__
    assert page["threads"]["commands take"] >= 1 and page["memory"]["canvases take"].endswith("iB")
    assert page["environment"]["NCA_FAST_ISA"] == "native"
    assert page["packages"]["numpy"] == metadata.version("numpy")
    kernel = page.pop("C++ kernel")
    assert not re.search("cannot be told|broken", json.dumps(page))
    assert kernel["isa"] == "native" and kernel["source"] in ("prebuilt", "compiled", "not compiled yet")
    if not torch.cuda.is_available():
        assert page["GPU"] == []
        (group,) = page["backend"]
        assert group["serves"] == "cpu" and group["presets"] == list(PRESETS) and group["precision"] == "fp32"
        assert "take states on a GPU" in group["not triton"]


def test_it_can_be_read(capsys):
    text = shown(capsys)
    assert re.search(rf"^nca_fast\n  version +{re.escape(nca_fast.__version__)}$", text, re.MULTILINE)
    assert re.search(r"^backend\n  device +cpu\n  serves +cpu\n  presets +texture, clip, style", text, re.MULTILINE)
    if not torch.cuda.is_available():
        assert re.search(r"^GPU +none$", text, re.MULTILINE)


@pytest.mark.parametrize("broken", info.PROBES)
def test_what_is_broken_is_said_in_its_place(capsys, monkeypatch, broken):
    def fail():
        raise OSError("libgpu.so:\n  undefined symbol")

    monkeypatch.setattr(info, "PROBES", dict.fromkeys(("GPU", broken, "memory"), lambda: "here") | {broken: fail})
    page = json.loads(shown(capsys, "--json"))
    assert page.pop(broken) == "cannot be told: OSError: libgpu.so: undefined symbol"
    assert set(page.values()) == {"here"}
    assert f"{broken:<18} cannot be told: OSError: libgpu.so: undefined symbol\n" in shown(capsys)


def test_a_kernel_that_cannot_be_compiled(capsys, monkeypatch):
    def fail():
        raise RuntimeError("the C++ kernel did not compile:\n error")

    monkeypatch.setattr(backends.BACKENDS["cpu"], "load", fail)
    page = json.loads(shown(capsys, "--json"))
    assert page["backend"][0]["not cpu"] == "the C++ kernel did not compile: error"
    assert page["C++ kernel"]["trouble"] == "the C++ kernel did not compile: error"
    assert page["backend"][0]["serves"] == "convolutions" and page["backend"][0]["presets"] == list(PRESETS)


def test_packages_that_are_missing_or_broken(capsys, monkeypatch):
    kept, imported = metadata.version, info.import_module

    def version(name):
        if name in ("tifffile", "scikit-learn"):
            raise metadata.PackageNotFoundError(name)
        return kept(name)

    def fail(name="torchvision"):
        if name in ("torchvision", "open_clip"):
            raise RuntimeError("operator torchvision::nms\ndoes not exist")
        if name == "triton":
            raise ModuleNotFoundError("No module named 'triton'")
        return imported(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(info, "import_torchvision", fail)
    monkeypatch.setattr(info, "import_module", fail)
    page = json.loads(shown(capsys, "--json"))
    packages = page["packages"]
    assert packages["tifffile"] == "missing (pip install tifffile)"
    assert packages["scikit-learn"] == "missing: the digits of nca-fast vae need it (pip install scikit-learn)"
    for name in ("torchvision", "open_clip_torch"):
        assert packages[name] == f"{kept(name)}, but broken: operator torchvision::nms does not exist"
    assert packages["numpy"] == kept("numpy") and page["triton"].startswith("missing: GPUs need it")


def test_packages_are_those_of_the_installation():
    """All that setup.py asks for, beside what has a section of its own, and what the examples take."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (required,) = [word.value for word in ast.walk(tree) if getattr(word, "arg", None) == "install_requires"]
    (extras,) = [to.value for to in tree.body if isinstance(to, ast.Assign) and to.targets[0].id == "EXTRAS"]
    asked = ast.literal_eval(required) + ast.literal_eval(extras)["examples"]
    names = {re.match(r"[\w-]+", text)[0] for text in asked} - {"torch", "triton"}
    assert {installed for installed, _ in info.PACKAGES.values()} == names


def test_a_gpu_and_why_its_kernels_do_not_serve(capsys, monkeypatch):
    gpu = torch.device("cuda", 0)
    properties = {"name": "NVIDIA T4", "total_memory": 16 * 2**30, "major": 7, "minor": 5}
    properties["shared_memory_per_block_optin"] = 64 * 1024
    monkeypatch.setattr(devices, "available", lambda: [torch.device("cpu"), gpu])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**properties))
    monkeypatch.setattr(torch, "empty", lambda *shape, device: SimpleNamespace(device=device))
    no = {Rule(hidden=(128,)): "too wide."}
    monkeypatch.setattr(
        backends, "refusal", lambda name, rule, x, _: no.get(rule) if name == "triton" and x.device == gpu else None
    )
    monkeypatch.setattr(backends, "default_precision", lambda device: "fp16" if device == gpu else "fp32")
    page = json.loads(shown(capsys, "--json"))
    assert page["GPU"][0] | {"driver": ""} == {
        "device": "cuda:0",
        "name": "NVIDIA T4",
        "memory": "16.0 GiB",
        "capability": "7.5",
        "driver": "",
        "shared memory": "64.0 KiB",
    }
    groups = {(group["device"], group["serves"]): group for group in page["backend"]}
    assert groups["cuda:0", "convolutions"] == {
        "device": "cuda:0",
        "serves": "convolutions",
        "presets": ["clip"],
        "precision": "fp32",
        "not triton": "too wide.",
    }
    assert groups["cuda:0", "triton"]["presets"] == [name for name in PRESETS if name != "clip"]
    assert groups["cuda:0", "triton"]["precision"] == "fp16" and groups["cpu", "cpu"]["presets"] == list(PRESETS)


def test_limits_are_named(capsys, monkeypatch):
    quota = control_groups.CpuQuota(1.5, Path("/sys/fs/cgroup/box"))
    limit = control_groups.MemoryLimit(2**31, 2**30, Path("/sys/fs/cgroup/box"))
    monkeypatch.setattr(control_groups, "cpu_quotas", lambda *root: [quota])
    monkeypatch.setattr(control_groups, "memory_limits", lambda *root: [limit])
    page = json.loads(shown(capsys, "--json"))
    folder = Path("/sys/fs/cgroup/box")
    assert page["threads"]["quotas"] == [f"1.5 CPUs ({folder})"]
    assert page["threads"]["in Python"] == "torch.set_num_threads(1)" and page["threads"]["commands take"] == 1
    assert page["memory"]["limits"] == [f"2.0 GiB, 1.0 GiB of it free ({folder})"]
    assert page["memory"]["canvases take"] == "896.0 MiB"


def test_devices_are_those_of_any_maker(monkeypatch):
    assert devices.available()[0] == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert list(map(str, devices.available())) == ["cpu", "xpu:0", "xpu:1"]
    assert info._gpus() == [{"device": "xpu:0"}, {"device": "xpu:1"}]


TEXTURES = {"brick": (1.0, 0.0), "grass": (0.0, 1.0)}


def described(capsys, model, *options):
    assert cli.main(["info", str(model), *options]) == 0
    return capsys.readouterr().out


def test_what_a_model_is(tmp_path, capsys):
    rule = Rule(channels=12, hidden=(7,), frozen=2, filters=("identity", "sobel_x"), activation="gelu", fire_rate=0.25)
    nca = nca_fast.NCA(rule, rgb_channel=2, textures=TEXTURES, maps={"normal": 3, "height": 1})
    made = {
        "system": "texture",
        "command": "nca-fast texture a\x1b[2J b",
        "iterations": 3,
        "seed": 0,
        "image": "skimage:brick",
    }
    nca.save_pretrained(tmp_path / "run", made | {"config": {"image_size": 10, "picture_steps": 33}})
    page = json.loads(described(capsys, tmp_path / "run", "--json"))
    assert page["rule"] == {
        "perceives": "identity 3 x 3, sobel_x 3 x 3",
        "network": "24 -> 7 -> 10",
        "fires": "0.25",
        "padding": "circular",
        "activation": "gelu",
    }
    kinds = ["code of the texture, read only", "colors", "normal", "height", "state"]
    assert page["channels"] == dict(zip(["0 to 1", "2 to 4", "5 to 7", "8", "9 to 11"], kinds, strict=True))
    assert (page["picture"], page["begins with"]) == ("40 x 40 cells after 33 steps", "zeros")
    assert page["learned"] == {"image": "skimage:brick"} and page["made"]["seed"] == "0"
    assert page["made"]["command"] == "nca-fast texture a\x1b[2J b" and page["made"]["nca_fast"] == nca_fast.__version__
    assert page["size"].startswith(f"{24 * 7 + 7 + 7 * 10} numbers, ")
    assert page["how good"] == f"not measured: nca-fast score {tmp_path / 'run'}"
    assert page["use"][0] == f"nca-fast render {tmp_path / 'run'} --out run.png"
    text = described(capsys, tmp_path / "run")
    assert "\x1b" not in text and "nca-fast texture a?[2J b\n" in text  # no file gives a terminal commands
    assert "knows              brick, grass\n" in text
    assert re.search(r"^learned\n  image +skimage:brick$", text, re.MULTILINE)
    assert text.endswith(f"                   nca-fast web {tmp_path / 'run'} --out page.html\n")


def test_other_kinds_of_models(tmp_path, capsys):
    from nca_fast.systems.vae.architecture import ARCHITECTURES
    from nca_fast.systems.vae.model import VAENCA

    growing = nca_fast.NCA(Rule(channels=5, hidden=(4,), alive_channel=3), start="cell")
    growing.save_pretrained(tmp_path / "grown", {"system": "grow", "config": {"image_size": 10, "image_margin": 2}})
    page = json.loads(described(capsys, tmp_path / "grown", "--json"))
    assert page["channels"] == {"0 to 2": "colors", "3": "alive", "4": "state"} and "how good" not in page
    assert page["picture"] == "14 x 14 cells after 200 steps" and page["rule"]["lives"].startswith("where channel 3 ")
    page = json.loads(described(capsys, "zoo:night", "--json"))
    assert page["picture"] == "after 96 steps" and page["channels"]["0 to 2"] == "picture, read only"
    assert page["how good"].startswith("score ") and page["learned"]["licence"] == "CC0"
    VAENCA(ARCHITECTURES["vae-mnist"]).save_pretrained(tmp_path / "digits")
    page = json.loads(described(capsys, tmp_path / "digits", "--json"))
    assert page["system"] == "none of nca-fast" and "channels" not in page and page["use"][0].startswith("nca-fast vae")
    assert page["learned"] == "its file does not say"


def test_a_model_that_is_not_there(capsys):
    assert cli.main(["info", "runs/none"]) == 2
    assert "model file runs/none must exist" in capsys.readouterr().err
