"""Weights of other projects: stock modules with their keys, stepped by their own formulas, against ours."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nca_fast import convert, fire_mask

STEPS, SEED = 4, 9
SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def float64():
    """Parameters of float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def masks(x, rate):
    """Those of each step for states [B, C, H, W]."""
    return [fire_mask(SEED, n, len(x), *x.shape[2:], rate).to(x) for n in range(STEPS)]


def state(channels, alive=3):
    """States of which some cells live. [2, C, 7, 9]"""
    x = (torch.rand(2, channels, 7, 9) - 0.5) * (torch.rand(2, 1, 7, 9) < 0.3)
    x[:, min(alive, channels - 1), 3, 4] = 0.8
    return x


def fixed(x, kernel):
    return F.conv2d(x, kernel.to(x).expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


def pool(x):
    return F.max_pool2d(x[:, 3:4], 3, 1, 1) > 0.1


def same(found, wanted, x):
    """To 1e-10; worst seen 6e-16, the order of sums. And the automaton did something."""
    assert (wanted - x).norm() > 1e-2 * x.norm()
    assert (found - wanted).norm() <= 1e-10 * wanted.norm()


class Linears(nn.Module):
    """Layers fc0 and fc1 over channels-last states, rows turned into columns."""

    def __init__(self, C=6, bias=False):
        super().__init__()
        self.fc0, self.fc1 = nn.Linear(3 * C, 20), nn.Linear(20, C, bias=bias)

    def forward(self, x, mask):
        x = x.transpose(1, 3)
        before = pool(x)
        y = torch.cat([x, fixed(x, SOBEL / 8), fixed(x, SOBEL.T / 8)], 1).transpose(1, 3)
        x = x + (self.fc1(F.relu(self.fc0(y))) * mask).transpose(1, 3)
        return (x * (before & pool(x))).transpose(1, 3)


@pytest.mark.parametrize("bias", [False, True])
def test_growing_with_linear_layers(bias):
    theirs, x = Linears(bias=bias), state(6)
    nca = convert.from_growing(theirs.state_dict(), fire_rate=0.7)
    y = x.permute(0, 2, 3, 1)
    for mask in masks(x, 0.7):
        y = theirs(y, mask.permute(0, 2, 3, 1))
    same(nca(x, STEPS, seed=SEED, backend="reference"), y.permute(0, 3, 1, 2), x)
    assert nca.start == "cell"


@pytest.mark.parametrize("kind", ["fixed", "learned", "with a bias"])
def test_growing_with_a_convolution(kind):
    C, x = 6, state(6)
    perception = nn.Conv2d(C, 3 * C, 3, padding=1, groups=C, bias=kind == "with a bias")
    update = nn.Sequential(perception, nn.Conv2d(3 * C, 20, 1), nn.ReLU(), nn.Conv2d(20, C, 1))
    if kind == "fixed":
        identity = F.pad(torch.ones(1, 1), [1] * 4)
        perception.weight.data[:] = torch.stack([identity, SOBEL / 8, SOBEL.T / 8]).repeat(C, 1, 1)[:, None]
    nca = convert.from_growing({f"update.{key}": value for key, value in update.state_dict().items()})
    assert (len(nca.rule.filters), nca.rule.learned_filters) == ((3, 0) if kind == "fixed" else (0, 3))
    y = x
    for mask in masks(x, 0.5):
        before = pool(y)
        y = y + update(y) * mask
        y = y * (before & pool(y))
    same(nca(x, STEPS, seed=SEED, backend="reference"), y, x)


@pytest.mark.parametrize("place", [0, 2])
def test_dynca(place):
    C, x = 5, state(5)
    theirs = nn.ModuleDict({"w1": nn.Conv2d(4 * C + place, 20, 1), "w2": nn.Conv2d(20, C, 1)})
    nca = convert.from_dynca(theirs.state_dict())
    rows, columns = 2 * (torch.arange(7) / 7 - 0.5 + 0.5 / 7), 2 * (torch.arange(9) / 9 - 0.5 + 0.5 / 9)
    emb = torch.stack([rows[:, None].expand(7, 9), columns.expand(7, 9)]).expand(2, -1, -1, -1)[:, :place]
    laplacian = torch.tensor([[1.0, 2, 1], [2, -12, 2], [1, 2, 1]])
    y = x
    for mask in masks(x, 0.5):
        padded = F.pad(y, [1] * 4, "replicate")
        seen = [fixed(padded, kernel)[:, :, 1:-1, 1:-1] for kernel in (SOBEL, SOBEL.T, laplacian)]
        y = y + theirs["w2"](F.relu(theirs["w1"](torch.cat([y, *seen, emb], 1)))) * mask
    start = torch.cat([convert.positions(7, 9).expand(2, -1, -1, -1)[:, :place], x], 1)
    same(nca(start, STEPS, seed=SEED, backend="reference")[:, place:], y, x)


@pytest.mark.parametrize("place, level", [(0, True), (2, False)])
def test_noisenca(place, level):
    C, x, dx, dy = 5, state(5), 0.8, 1.3
    theirs = nn.ModuleDict({"w1": nn.Conv2d(4 * C + place, 20, 1), "w2": nn.Conv2d(20, C, 1, bias=False)})
    weights = theirs.state_dict() | ({"noise_level": torch.tensor([0.1])} if level else {})
    nca = convert.from_noisenca(weights, dx=dx, dy=dy)
    half = torch.tensor([[0.5, 0, 0.5], [2, -6, 2], [0.5, 0, 0.5]])
    y, emb = x, convert.positions(7, 9).expand(2, -1, -1, -1)[:, :place]
    for mask in masks(x, 1.0 if level else 0.5):
        padded = F.pad(y, [1] * 4, "circular")
        kernels = (SOBEL / dx, SOBEL.T / dy, half / dx**2 + half.T / dy**2)
        seen = torch.stack([y, *(fixed(padded, kernel)[:, :, 1:-1, 1:-1] for kernel in kernels)], 2).flatten(1, 2)
        y = y + theirs["w2"](F.relu(theirs["w1"](torch.cat([seen, emb], 1)))) * mask
    same(nca(torch.cat([emb, x], 1), STEPS, seed=SEED, backend="reference")[:, place:], y, x)


@pytest.mark.parametrize("learned, prefix", [(2, "rule."), (0, "")])
def test_ncalab(learned, prefix):
    """With learned filters an image that stays; with Sobel filters an alive mask, which masks the image as well."""
    C, image, x = 6, 2, state(6)
    network = nn.Sequential(nn.Conv2d(3 * C, 20, 1), nn.ReLU(), nn.Conv2d(20, C, 1, bias=False))
    reflected = {"padding": 1, "padding_mode": "reflect", "groups": C, "bias": False}
    filters = nn.ModuleList(nn.Conv2d(C, C, 3, **reflected) for _ in range(learned))
    weights = {f"{prefix}network.{key}": value for key, value in network.state_dict().items()}
    weights |= {f"perception.filters.{key}": value for key, value in filters.state_dict().items()}
    more = {} if learned else {"alive_channel": 3, "alive_mask": "after"}
    nca = convert.from_ncalab(weights, frozen=image, fire_rate=0.8, **more)
    assert (len(nca.rule.filters), nca.rule.learned_filters) == ((1, 2) if learned else (3, 0))
    y = x
    for mask in masks(x, 0.8):
        seen = [f(y) for f in filters] if learned else [fixed(y, SOBEL / 8), fixed(y, SOBEL.T / 8)]
        u = network(torch.cat([y, *seen], 1)) * mask
        y = y + torch.cat([0 * u[:, :image], u[:, image:]], 1)
        y = y if learned else y * pool(y)
    same(nca(x, STEPS, seed=SEED, backend="reference"), y, x)


@pytest.mark.parametrize("groups, transposed, hidden", [(1, True, 20), (1, False, 40), (6, False, 20)])
def test_mednca(groups, transposed, hidden):
    C, x = 6, state(6)
    kernel = {"padding": 1, "padding_mode": "reflect", "groups": groups}
    parts = {"p0": nn.Conv2d(C, C, 3, **kernel), "p1": nn.Conv2d(C, C, 3, **kernel)}
    theirs = nn.ModuleDict(parts | {"fc0": nn.Linear(3 * C, hidden), "fc1": nn.Linear(hidden, C, bias=False)})
    nca = convert.from_mednca(theirs.state_dict(), transposed=transposed)
    assert nca.rule.learned_filters == (0 if groups == 1 else 2)
    assert nca.rule.hidden == ((18, 40) if hidden == 40 else (20,))  # 18 (54 + 40) products are fewer than 40 * 54
    y = x.permute(0, 2, 3, 1)
    for mask in masks(x, 0.5):
        z = y.transpose(1, 3) if transposed else y.permute(0, 3, 1, 2)
        seen = torch.cat([z, theirs["p0"](z), theirs["p1"](z)], 1)
        seen = seen.transpose(1, 3) if transposed else seen.permute(0, 2, 3, 1)
        new = y + theirs["fc1"](F.relu(theirs["fc0"](seen))) * mask.permute(0, 2, 3, 1)
        y = torch.cat([y[..., :1], new[..., 1:]], 3)
    same(nca(x, STEPS, seed=SEED, backend="reference"), y.permute(0, 3, 1, 2), x)


@pytest.mark.parametrize("size, count, native", [(3, 8, True), (3, 9, False), (5, 2, False)])
def test_the_cheaper_form(size, count, native):
    """With 200 hidden units nine learned filters cost more than nine shifts; six of 5x5 are a linear layer."""
    C, x = 3, state(3)
    kernel = {"padding": size // 2, "groups": C}
    update = nn.Sequential(nn.Conv2d(C, count * C, size, **kernel), nn.Conv2d(count * C, 200, 1), nn.ReLU())
    update.append(nn.Conv2d(200, C, 1))
    nca = convert.from_growing(update.state_dict(), alive_channel=None)
    assert nca.rule.learned_filters == (count if native else 0)
    assert nca.rule.hidden == ((6, 200) if size == 5 else (200,))
    y = x
    for mask in masks(x, 0.5):
        y = y + update(y) * mask
    same(nca(x, STEPS, seed=SEED, backend="reference"), y, x)


def test_goal_guided():
    C, x = 6, state(6)
    out = nn.Sequential(
        nn.Conv2d(3 * C, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, C, 1, bias=False)
    )
    perception, encoder = nn.Conv2d(C, 3 * C, 3, padding=1, groups=C, bias=False), nn.Embedding(4, C)
    weights = {"perception_net.weight": perception.weight, "encoder.embedding.weight": encoder.weight}
    weights |= {f"update_net.out.{key}": value for key, value in out.state_dict().items()}
    nca = convert.from_goal_guided(weights)
    assert nca.rule.learned_filters == 3
    goal = 3 * encoder(torch.tensor([1, 3]))
    y = x
    for mask in masks(x, 0.5):
        before = pool(y)
        y = y + out(perception(y + goal[:, :, None, None] * before)) * mask
        y = (y * (before & pool(y))).clamp(-10, 10)
    found = convert.steered(nca, x, goal, STEPS, seed=SEED, backend="reference")
    same(found, y, x)
    assert torch.autograd.grad(found.square().sum(), encoder.weight)[0].norm() > 0
    with pytest.raises(ValueError, match=r"x and goal must be \[B, 6, H, W\]"):
        convert.steered(nca, x, goal[:, :3], STEPS)


LAYOUTS = [
    convert.from_distill,
    convert.from_growing,
    convert.from_dynca,
    convert.from_noisenca,
    convert.from_ncalab,
    convert.from_mednca,
    convert.from_goal_guided,
]


@pytest.mark.parametrize("read", LAYOUTS, ids=lambda read: read.__name__)
def test_what_is_no_such_layout(read):
    """One sentence, whatever it is: other keys, other shapes, no tensors."""
    for other in ({}, {"conv.weight": torch.zeros(4, 3, 3, 3)}, {"fc0.weight": torch.zeros(3, 4)}):
        with pytest.raises(ValueError, match="state_dict must"):
            read(other)
    for other in (None, [torch.zeros(3)], {"w1.weight": 3.0}):
        with pytest.raises(TypeError, match="state_dict must be"):
            read(other)


def test_shapes_that_do_not_fit():
    good = Linears().state_dict()
    for key, size in (("fc0.weight", (20, 17)), ("fc1.weight", (6, 19)), ("fc0.bias", (19,)), ("fc1.weight", (6,))):
        with pytest.raises(ValueError, match="state_dict must have the shapes"):
            convert.from_growing(good | {key: torch.zeros(size)})
    with pytest.raises(ValueError, match=r"\['hidden'\] must not be given: the weights say it"):
        convert.from_growing(good, hidden=(20,))
    for read, inputs in ((convert.from_dynca, 21), (convert.from_noisenca, 23)):
        wrong = {"w1.weight": torch.zeros(8, inputs), "w1.bias": torch.zeros(8), "w2.weight": torch.zeros(5, 8)}
        with pytest.raises(ValueError, match="first layer with 20 or 22 inputs"):
            read(wrong | ({"w2.bias": torch.zeros(5)} if read is convert.from_dynca else {}))
    clock = {"network.0.weight": torch.zeros(8, 13), "network.0.bias": torch.zeros(8)}
    with pytest.raises(ValueError, match="without a clock"):
        convert.from_ncalab(clock | {"network.2.weight": torch.zeros(4, 8)})
    two = {"network.0.weight": torch.zeros(8, 8), "network.0.bias": torch.zeros(8)}
    with pytest.raises(ValueError, match="first layer with 12 or 16 inputs"):
        convert.from_ncalab(two | {"network.2.weight": torch.zeros(4, 8)})
    with pytest.raises(ValueError, match="shapes of linear layers"):
        convert.from_ncalab(two | {"network.2.weight": torch.zeros(0, 8)})
    with pytest.raises(ValueError, match="dx and dy must be above 0"):
        convert.from_noisenca({}, dx=0)
    kernels = {"filters.0.weight": torch.zeros(4, 1, 3, 3), "filters.1.weight": torch.zeros(4, 1, 5, 5)}
    network = {"network.0.weight": torch.zeros(8, 12), "network.0.bias": torch.zeros(8)}
    with pytest.raises(ValueError, match="of one size"):
        convert.from_ncalab(network | kernels | {"network.2.weight": torch.zeros(4, 8)})
