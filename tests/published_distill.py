"""Distill's automata and their relatives, and textures.

Each is written from its authors' formulas; sizes are small, and clamps and blurs small enough to bite.
"""

import torch
import torch.nn.functional as F
from published import (
    GROWING,
    IDENTITY,
    LAPLACIAN,
    SOBEL,
    TEXTURE,
    Draws,
    System,
    depthwise,
    filterwise,
    folded,
    network,
    one,
    pool,
    shifts,
)
from torch import nn

import nca_fast
from nca_fast import Rule


class GrowingDistill(System):
    """Mordvintsev et al. 2020. Alive before and after; zero padding."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C)
        self.rule = Rule(
            C, (self.width,), ("identity", "sobel_x/8", "sobel_y/8"), padding="zero", alive_channel=3, output_bias=True
        )

    def theirs(self, x, draws):
        for n in range(self.steps):
            before = pool(x[:, 3:4])
            x = x + self.w2(F.relu(self.w1(depthwise(x, GROWING, "zero")))) * draws.mask(n)
            x = x * (before & pool(x[:, 3:4]))
        return x

    def ours(self, x):
        w, b = one(self.w1)
        return self.roll(x, [(filterwise(w, 3), b), one(self.w2)])


class TextureDistill(System):
    """Niklasson et al. 2021."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(4 * C, self.width, C, last_bias=False)
        self.rule = Rule(C, (self.width,))

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = x + self.w2(F.relu(self.w1(depthwise(x, TEXTURE, "circular")))) * draws.mask(n)
        return x

    def ours(self, x):
        w, b = one(self.w1)
        return self.roll(x, [(filterwise(w, 4), b), one(self.w2)])


class NoiseControlled(TextureDistill):
    """noise_controlled_nca: normal noise on the state of some samples, seen by everything."""

    def __init__(self, C=8):
        super().__init__(C)
        self.rule = Rule(C, (self.width,), state_noise=1.0)
        self.levels = torch.tensor([0.0, 0.02, 0.05])[:, None, None, None]

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = x + draws.normal(n) * self.levels
            x = x + self.w2(F.relu(self.w1(depthwise(x, TEXTURE, "circular")))) * draws.mask(n)
        return x

    def ours(self, x):
        w, b = one(self.w1)
        return self.roll(x, [(filterwise(w, 4), b), one(self.w2)], noise=self.levels.flatten())


class AdversarialMNIST(System):
    """Two self-classifying automata, mixed by a hard map: one network of whose units the map switches some off."""

    def __init__(self, C=7):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(C + 1, 8, 3, padding=1) for _ in "ab")
        self.nets = nn.ModuleList(network(8, 7, C) for _ in "ab")
        self.rule = Rule(C + 3, (18, 15), shifts(3), padding="zero", frozen=3, output_bias=True, update_noise=0.02)
        self.map = (torch.rand(3, 1, *self.size) < 0.4).to(torch.float64)

    def draws(self, x):
        return super().draws(torch.cat([x[:, :2], x], 1))

    def theirs(self, x, draws):
        for n in range(self.steps):
            gray, state, results = x[:, :1], x[:, 1:], []
            for conv, net in zip(self.convs, self.nets, strict=True):
                u = net[1](F.relu(net[0](F.relu(conv(x))))) + 0.02 * draws.normal(n, True).to(x)
                results.append(torch.cat([gray, state + u * (draws.mask(n) & (gray > 0.1))], 1))
            x = results[0] * (1 - self.map) + results[1] * self.map
        return x

    def ours(self, x):
        off = -1e4  # times 0 it is 0: units that are on lose nothing, those that are off are 0 and pass no gradient
        (a, a2), (b, b2) = self.nets
        switch = torch.zeros(18, 2)  # by map and 1 - map
        switch[:8, 0], switch[8:16, 1], switch[16, 0], switch[17, 1] = off, off, 1, 1  # and two units that pass them on
        first = F.pad(torch.cat([conv.weight for conv in self.convs]), [0, 0, 0, 0, 2, 0, 0, 2])
        first = first + F.pad(switch[:, :, None, None], [1, 1, 1, 1, 0, x.shape[1]])
        bias = F.pad(torch.cat([conv.bias for conv in self.convs]), [0, 2])
        second = torch.block_diag(one(a)[0], one(b)[0], torch.ones(1, 2))
        second = second + F.pad(
            torch.cat([switch[:7], switch[8:15], torch.tensor([[0.0, -1]])]), [16, 0]
        )  # the last: the map
        last = torch.cat([one(a2)[0], one(b2)[0], (b2.bias - a2.bias)[:, None]], 1)
        weights = [
            (first.permute(0, 2, 3, 1).flatten(1), bias),
            (second, F.pad(torch.cat([a.bias, b.bias]), [0, 1])),
            (last, a2.bias),
        ]
        ink = 0.5 * (x.detach()[None, :, :1] > 0.1)
        return self.roll(torch.cat([self.map, 1 - self.map, x], 1), weights, fire_rate=ink)[:, 2:]


class SigmoidGate(System):
    """Mahdi-Ayadi: the update is gated by the ink and by a sigmoid of the last channel; all fire."""

    def __init__(self, C=7):
        super().__init__()
        self.conv, (self.d1, self.d2) = nn.Conv2d(C + 1, 14, 3, padding=1), network(14, 12, C + 1)
        self.rule = Rule(C + 1, (14, 12), shifts(3), padding="zero", frozen=1, output_bias=True)

    def theirs(self, x, draws):
        for _ in range(self.steps):
            u = self.d2(F.relu(self.d1(F.relu(self.conv(x)))))
            u = torch.cat([torch.zeros_like(u[:, :1]), u[:, 1:]], 1) * (x[:, :1] > 0.1)
            x = x + u * torch.sigmoid(x[:, -1:])
        return x

    def ours(self, x):
        w, b = one(self.d2)
        first = self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias

        def gated(x, y, n):
            return torch.lerp(x, y, torch.sigmoid(x[:, -1:]))

        ink = (x[:, :1] > 0.1).to(x)[None]  # frozen, so that it says who fires
        return self.roll(x, [first, one(self.d1), (w[1:], b[1:])], fire_rate=ink, after=gated)


class Isotropic(System):
    """Isotropic NCA, "laplacian": a cell was dead before where none of 3x3 is mature."""

    def __init__(self, C=8, hidden=24):
        super().__init__()
        self.w1, self.w2 = network(2 * C, hidden, C, last_bias=False)
        self.rule = Rule(C, (hidden,), ("identity", "laplacian"), alive_channel=3, alive_mask="before")

    def theirs(self, x, draws):
        for n in range(self.steps):
            mature = (x[:, 3:4] > 0.1).to(x)
            living = F.conv2d(F.pad(mature, [1] * 4, "circular"), torch.ones(1, 1, 3, 3)) > 0.5
            y = depthwise(x, TEXTURE[[0, 3]], "circular")
            x = (x + self.w2(F.relu(self.w1(y))) * draws.mask(n)) * living
        return x

    def ours(self, x):
        w, b = one(self.w1)
        return self.roll(x, [(filterwise(w, 2), b), one(self.w2)])


class MuNCA(System):
    """68 parameters and the like: one filter for each channel, absolute values, no hidden layer."""

    def __init__(self, C=4):
        super().__init__()
        self.w = nn.Parameter(torch.randn(C, 4 * C + 1) * 0.1)
        filters = torch.stack([LAPLACIAN, LAPLACIAN, SOBEL, SOBEL.T])
        self.register_buffer("filters", filters)
        given = {"hidden_bias": False, "output_bias": True, "learned_filters": 1}
        self.rule = Rule(C, (4 * C,), ("identity",), 1.0, **given)

    def start(self, x):
        return x[:, :4] + 0.1 * torch.rand(x[:, :4].shape)  # relu(y) - relu(-y) has no gradient where y is exactly 0

    def theirs(self, x, draws):
        for _ in range(self.steps):
            y = F.conv2d(F.pad(x, [1] * 4, "circular"), self.filters[:, None], groups=x.shape[1])
            y = torch.cat([x, y], 1)
            y = torch.cat([y, y.abs()], 1)
            x = x + F.conv2d(y, self.w[:, :-1, None, None], self.w[:, -1])
        return x

    def ours(self, x):
        C = len(self.w)
        W1 = torch.cat([torch.eye(2 * C), -torch.eye(2 * C)])  # |y| = relu(y) + relu(-y), y the difference
        linear, size = self.w[:, : 2 * C], self.w[:, 2 * C : -1]
        W2 = torch.cat([size + linear, size - linear], 1)
        return self.roll(x, [(self.filters[None], None), (W1, None), (W2, self.w[:, -1])])


class AdversarialGrowing(System):
    """Randazzo et al. 2021: whole steps of two growing automata, mixed by a map."""

    def __init__(self, C=6):
        super().__init__()
        self.C, self.a, self.b = C, network(3 * C, 20, C), network(3 * C, 20, C)
        filters = ("identity", "sobel_x/8", "sobel_y/8")
        self.rule = Rule(2 * C, (40,), filters, 1.0, padding="zero", output_bias=True, residual=False)
        self.one_rule = Rule(C, alive_channel=3, padding="zero")
        self.register_buffer("map", (torch.rand(3, 1, *self.size) < 0.3).to(torch.float64))

    def start(self, x):
        return x[:, :6]

    def masks(self, x, n):
        return [Draws(self.one_rule, x.shape, seed).mask(n) for seed in (21, 22)]

    def theirs(self, x, draws):
        for n in range(self.steps):
            results = []
            for (w1, w2), mask in zip((self.a, self.b), self.masks(x, n), strict=True):
                new = x + w2(F.relu(w1(depthwise(x, GROWING, "zero")))) * mask
                results.append(new * (pool(x[:, 3:4]) & pool(new[:, 3:4])))
            x = results[0] * (1 - self.map) + results[1] * self.map
        return x

    def ours(self, x):
        C, (a1, a2), (b1, b2) = self.C, self.a, self.b

        shares = torch.stack([1 - self.map, self.map], 1)

        def mixed(x, u, n):
            x = x[:, :C]
            new = torch.addcmul(x[:, None], u.unflatten(1, (2, C)), torch.stack(self.masks(x, n), 1).to(x))
            living = nca_fast.alive(new.flatten(0, 1), self.one_rule).unflatten(0, (-1, 2))
            return (new * (shares * (living & nca_fast.alive(x, self.one_rule)[:, None]))).sum(1).repeat(1, 2, 1, 1)

        own = torch.cat([filterwise(one(w)[0], 3).unflatten(1, (3, C)) for w in (a1, b1)])  # [40, 3, C]
        W1 = torch.cat([own, torch.zeros_like(own)], 2).flatten(1)  # the second copy of the state is not looked at
        W2 = torch.block_diag(one(a2)[0], one(b2)[0])
        weights = [(W1, torch.cat([a1.bias, b1.bias])), (W2, torch.cat([a2.bias, b2.bias]))]
        return self.roll(x.repeat(1, 2, 1, 1), weights, after=mixed)[:, :C]


class NoiseNCA(System):
    """Pajouheshgar et al. 2024: all cells fire; a Laplacian of two halves, scaled by dx and dy."""

    def __init__(self, C=8, hidden=24, dx=0.8, dy=1.3):
        super().__init__()
        self.w1, self.w2 = network(4 * C, hidden, C, last_bias=False)
        half = torch.tensor([[0.5, 0, 0.5], [2, -6, 2], [0.5, 0, 0.5]])
        self.register_buffer("five", torch.stack([IDENTITY, SOBEL / dx, SOBEL.T / dy, half / dx**2, half.T / dy**2]))
        lap = (self.five[3] + self.five[4]).tolist()
        self.rule = Rule(C, (hidden,), ("identity", self.five[1].tolist(), self.five[2].tolist(), lap), 1.0)

    def theirs(self, x, draws):
        for _ in range(self.steps):
            z = depthwise(x, self.five, "circular").unflatten(1, (-1, 5))
            z = torch.cat([z[:, :, :3], z[:, :, 3:4] + z[:, :, 4:]], 2).flatten(1, 2)
            x = x + self.w2(F.relu(self.w1(z)))
        return x

    def ours(self, x):
        w, b = one(self.w1)
        return self.roll(x, [(filterwise(w, 4), b), one(self.w2)])


class MNNCA(System):
    """Petersen 2023: dense 3x3 and 7x7, mixed by a gate that a channel opens."""

    steps = 3

    def __init__(self, C=5):
        super().__init__()
        self.C = C
        self.convs = nn.ModuleList(nn.Conv2d(C, 7, k, padding=k // 2, padding_mode="circular") for k in (3, 7))
        self.nets = nn.ModuleList(network(7, 7, C, last_bias=False) for _ in "ab")
        self.rule = Rule(2 * C, (14,), shifts(7), 1.0, residual=False)

    def start(self, x):
        return x[:, :5]

    def theirs(self, x, draws):
        for _ in range(self.steps):
            a, b = (net[1](F.relu(net[0](conv(x)))) for conv, net in zip(self.convs, self.nets, strict=True))
            gate = torch.sigmoid(x[:, 3:4])
            x = x + a * gate + b * (1 - gate)
        return x

    def ours(self, x):
        C, W1, bias, W2 = self.C, [], [], []
        for conv, net in zip(self.convs, self.nets, strict=True):
            r = 3 - conv.kernel_size[0] // 2
            w, b = one(net[0])
            W1.append(folded(w, F.pad(conv.weight, [r] * 4)).unflatten(1, (49, C)))
            bias.append(b + w @ conv.bias)
            W2.append(one(net[1])[0])
        W1 = F.pad(torch.cat(W1), [0, C]).flatten(1)

        def gated(x, u, n):
            gate = torch.sigmoid(x[:, 3:4])
            return (x[:, :C] + torch.lerp(u[:, C:], u[:, :C], gate)).repeat(1, 2, 1, 1)

        return self.roll(x.repeat(1, 2, 1, 1), [(W1, torch.cat(bias)), (torch.block_diag(*W2), None)], after=gated)[
            :, :C
        ]


class ImageManipulation(System):
    """Petersen 2022: frozen picture, two hidden layers, all fire; three channels are blurred under the update."""

    steps = 3

    def __init__(self, C=9):
        super().__init__()
        self.w = network(4 * C, 14, 14, C - 3)
        self.rule = Rule(C, (14, 14), fire_rate=1.0, frozen=3, output_bias=True, residual=False)

    def start(self, x):
        return F.pad(x, [0, 0, 0, 0, 0, 9 - x.shape[1]], value=0.3)

    def blurred(self, x):
        parts = list(x.split(1, 1))
        for i, k in enumerate((3, 5, 7)):  # theirs: 3, 7, 15, on canvases that hold them
            g = torch.exp(-((torch.arange(k) - k // 2) ** 2) / 8.0)
            kernel = torch.outer(g, g) / torch.outer(g, g).sum()
            parts[-(i + 2)] = F.conv2d(F.pad(parts[-(i + 2)], [k // 2] * 4, "circular"), kernel[None, None])
        return torch.cat(parts, 1)

    def theirs(self, x, draws):
        for _ in range(self.steps):
            y = torch.cat([x, depthwise(x, TEXTURE[1:], "circular")], 1)
            y = self.w[2](F.relu(self.w[1](F.relu(self.w[0](y)))))
            x = torch.cat([x[:, :3], self.blurred(x)[:, 3:] + y], 1)
        return x

    def ours(self, x):
        (w, b), *rest = map(one, self.w)
        C = x.shape[1]
        W1 = torch.cat([w[:, :C], filterwise(w[:, C:], 3)], 1)

        def circulant(n):  # what is blurred around a torus, wider or less for each of three channels: [3, n, n]
            apart = (torch.arange(n) - torch.arange(n)[:, None] + n // 2) % n - n // 2
            g = torch.stack([torch.exp(-(apart**2) / 8.0) * (apart.abs() <= k // 2) for k in (7, 5, 3)])
            return g / g.sum(1, keepdim=True)

        down, along = map(circulant, x.shape[2:])

        def blur(x, u, n):  # down the rows, and along them
            soft = down @ x[:, C - 4 : C - 1] @ along
            return torch.cat([x[:, :3], torch.cat([x[:, 3 : C - 4], soft, x[:, C - 1 :]], 1) + u[:, 3:]], 1)

        return self.roll(x, [(W1, b), *rest], after=blur)
