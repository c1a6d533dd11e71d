"""Model files: what is written comes back, and every way in which a file can be wrong has its own message."""

import json
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

import nca_fast
from nca_fast import checkpoint


@contextmanager
def full_disk(limit):
    """Writing more than `limit` bytes to a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {"w": torch.randn(40, 50)}, {"rule": {"channels": 12}})
    return path


def test_round_trip(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {
        "w": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).T,
        "bytes": torch.arange(5, dtype=torch.uint8),
        "number": torch.tensor(7.0),
    }
    tensors["shared"] = tensors["w"]
    metadata = {"rule": {"channels": 12, "hidden": [96]}, "name": 'naïve "quotes"', "nothing": None}
    checkpoint.save(path, tensors, metadata)
    loaded, read = checkpoint.load(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert {name: read[name] for name in metadata} == metadata
    assert checkpoint.load_metadata(path) == read
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    ("shape", "like"), [((2, None), torch.uint8), ((3, None), None), ((2, 3), torch.float16), ((2,), None)]
)
def test_a_tensor_is_of_its_shape_and_kind(shape, like):
    held = checkpoint.Contents({"x": torch.ones(2, 3)}, "x.safetensors")
    assert held.tensor("x", (2, None)) is held.tensor("x", (2, 3), torch.float32) is held["x"]
    with pytest.raises(
        ValueError, match=r"'x' of x.safetensors must be \[.*\] in .*, but is \[2, 3\] in torch.float32"
    ):
        held.tensor("x", shape, like)


def test_provenance_is_completed(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {}, {"provenance": {"seed": 3, "command": "nca-fast texture"}})
    facts = checkpoint.load_metadata(path)["provenance"]
    assert facts["seed"] == 3
    assert facts["command"] == "nca-fast texture"
    assert facts["nca_fast"] == nca_fast.__version__
    assert facts["torch"] == torch.__version__
    assert "date" in facts


def test_loaded_tensors_outlive_the_file(model):
    tensors, _ = checkpoint.load(model)
    before = tensors["w"].clone()
    model.write_bytes(b"")
    assert torch.equal(tensors["w"], before)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="must exist, but there is none"):
        checkpoint.load(tmp_path / "none.safetensors")


def test_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="must be a file, but it is a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short", b"a text file that somebody named like a model\n" * 10])
def test_not_safetensors(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a safetensors file"):
        checkpoint.load(path)


@pytest.mark.parametrize("kept", [20, -1, -4000])  # within the header, one byte short, half of the tensor
def test_truncated(model, kept):
    model.write_bytes(model.read_bytes()[:kept])
    with pytest.raises(ValueError, match="must be complete, but it is truncated"):
        checkpoint.load(model)


@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"nca_fast": "no json"}, {"nca_fast": "[1]"}])
def test_foreign_safetensors(tmp_path, header):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(2)}, str(path), metadata=header)
    with pytest.raises(ValueError, match="must carry the JSON of nca_fast"):
        checkpoint.load(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_must_be_finite(model, bad):
    before = model.read_bytes()
    with pytest.raises(ValueError, match=r"tensor 'w' to be saved in .* must be finite, but 1 of its 3 values"):
        checkpoint.save(model, {"w": torch.tensor([1.0, bad, 2.0])}, {})
    assert model.read_bytes() == before
    save_file({"w": torch.tensor([1.0, bad, 2.0])}, str(model), metadata={"nca_fast": json.dumps({})})
    with pytest.raises(ValueError, match=r"tensor 'w' in .* must be finite, but 1 of its 3 values"):
        checkpoint.load(model)


def test_full_disk_keeps_the_old_file(model):
    before = model.read_bytes()
    with full_disk(4000), pytest.raises(OSError, match=r"cannot write .*model.safetensors"):
        checkpoint.save(model, {"w": torch.randn(100, 100)}, {})
    assert model.read_bytes() == before
    assert [file.name for file in model.parent.iterdir()] == ["model.safetensors"]


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot write"):
        checkpoint.save(tmp_path / "none" / "x.safetensors", {}, {})
