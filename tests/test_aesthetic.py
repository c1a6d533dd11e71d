"""The aesthetic head: files of the published shapes, its formula, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from nca_fast.losses.aesthetic import AestheticHead


@pytest.fixture
def layer():
    torch.manual_seed(4)
    return torch.nn.Linear(512, 1)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(("width", "prefix"), [(512, ""), (768, ""), (512, "linear.")])
def test_rating_is_that_of_the_linear_layer(tmp_path, ending, width, prefix):
    layer = torch.nn.Linear(width, 1)
    state = {prefix + name: value.detach() for name, value in layer.state_dict().items()}
    path = tmp_path / f"head{ending}"
    torch.save(state, path) if ending == ".pth" else save_file(state, path)
    vectors = 7 * torch.randn(5, width)
    head = AestheticHead(path, width, target=6.0)
    wanted = layer(F.normalize(vectors, dim=1))[:, 0]
    torch.testing.assert_close(head.rating(vectors), wanted)
    torch.testing.assert_close(head(vectors), (wanted - 6).square())
    assert not list(head.parameters())


def test_descent_raises_the_rating(tmp_path, layer):
    torch.save(layer.state_dict(), tmp_path / "head.pt")
    head = AestheticHead(tmp_path / "head.pt", 512)
    vectors = torch.randn(2, 512, requires_grad=True)
    (grad,) = torch.autograd.grad(head(vectors).sum(), vectors)
    assert (head.rating(vectors - 0.01 * grad) > head.rating(vectors)).all()


@pytest.mark.parametrize("target", [-0.1, 10.5, float("nan")])
def test_target_must_be_a_rating(tmp_path, layer, target):
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    with pytest.raises(ValueError, match="aesthetic target must be from 0 to 10"):
        AestheticHead(tmp_path / "head.pth", 512, target)


def test_head_of_another_model(tmp_path, layer):
    torch.save(layer.state_dict(), tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"vectors of 768 numbers.* has weight \[1, 512\] and bias \[1\]"):
        AestheticHead(tmp_path / "head.pth", 768)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "head.pth", "must be an existing file"),
        (b"text", "head.txt", "must end in .pth, .pt or .safetensors"),
        (b"text", "head.pth", "cannot be read"),
        (b"text", "head.safetensors", "cannot be read"),
        ({"weight": torch.ones(1, 512)}, "head.pth", r"must hold one weight and one bias, but holds \['weight'\]"),
        (torch.nn.Linear(512, 1), "head.pth", "cannot be read"),  # a pickled module, which loading would execute
    ],
)
def test_bad_files(tmp_path, content, name, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        AestheticHead(path, 512)
