"""Automata of medicine, games and science.

Each is written from its authors' formulas; sizes are small, and clamps and blurs small enough to bite.
"""

import torch
import torch.nn.functional as F
from published import (
    GROWING,
    SOBEL,
    TEXTURE,
    System,
    depthwise,
    filterwise,
    folded,
    identity_kernels,
    network,
    one,
    pool,
    shifts,
    spread,
)
from torch import nn

from nca_fast import Rule


class MedNCA(System):
    """Kalkhof et al. 2023: channels last, rows and columns swapped; reflect padding; two dense convolutions."""

    def __init__(self, C=7, hidden=24):
        super().__init__()
        self.C, self.p0, self.p1 = C, *(nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect") for _ in "ab")
        self.fc0, self.fc1 = nn.Linear(3 * C, hidden), nn.Linear(hidden, C, bias=False)
        activation = ("identity", "relu")  # the convolutions are a layer, which multiplies less than their fold
        self.rule = Rule(C, (3 * C, hidden), shifts(3), padding="reflect", frozen=1, activation=activation)

    def start(self, x):
        return x[:, : self.C]

    def theirs(self, x, draws):
        x = x.permute(0, 2, 3, 1)
        for n in range(self.steps):
            z = x.transpose(1, 3)
            y = torch.cat([z, self.p0(z), self.p1(z)], 1).transpose(1, 3)
            z = z + (self.fc1(F.relu(self.fc0(y))) * draws.mask(n).permute(0, 2, 3, 1)).transpose(1, 3)
            x = torch.cat([x[..., :1], z.transpose(1, 3)[..., 1:]], 3)
        return x.permute(0, 3, 1, 2)

    def ours(self, x):
        seen = torch.cat([identity_kernels(self.C), self.p0.weight.mT, self.p1.weight.mT])
        bias = torch.cat([torch.zeros(self.C), self.p0.bias, self.p1.bias])
        first = seen.permute(0, 2, 3, 1).flatten(1), bias
        return self.roll(x, [first, (self.fc0.weight, self.fc0.bias), (self.fc1.weight[1:], None)])


class RNCA(System):
    """maltesilber: every channel fires for itself and is scaled up; each sample ends when it likes."""

    def __init__(self, C=7):
        super().__init__()
        self.embed = nn.Conv2d(1, 3 * C, 3, padding=1, bias=False)
        self.w1, self.w2 = network(6 * C, self.width, C)
        self.ends = torch.tensor([2, 4, 3])
        self.rule = Rule(
            C + 1, (self.width,), shifts(3), padding="zero", frozen=1, alive_channel=C, output_bias=True, fire_shared=()
        )

    def theirs(self, x, draws):
        states, picture = [], self.embed(x[:, :1])
        x = x[:, 1:]
        for n in range(self.steps):
            before = pool(x[:, -1:])
            u = self.w2(F.relu(self.w1(torch.cat([depthwise(x, GROWING, "zero"), picture], 1))))
            states.append(x)
            x = x + u * draws.mask(n) / 0.5
            x = x * (before & pool(x[:, -1:]))
        return torch.stack(states)[self.ends, torch.arange(3)]

    def ours(self, x):
        (w, b), (w2, b2), C = one(self.w1), one(self.w2), x.shape[1] - 1
        seen = F.pad(spread(GROWING.to(w).repeat(C, 1, 1)[:, None], C), [0, 0, 0, 0, 1, 0])
        picture = F.pad(self.embed.weight, [0, 0, 0, 0, 0, C])
        states = self.roll(x, [(folded(w, torch.cat([seen, picture])), b), (2 * w2, 2 * b2)], at=range(1, self.steps))
        return states[self.ends - 1, torch.arange(3)][:, 1:]


class NCAReal(System):
    """nhbess: one mask for the whole batch, frozen sensors, a loss on every state."""

    def __init__(self, C=8):
        super().__init__()
        self.w1, self.w2 = network(3 * C, self.width, C - 2)
        self.rule = Rule(
            C,
            (self.width,),
            ("identity", "sobel_x/8", "sobel_y/8"),
            0.8,
            padding="zero",
            frozen=2,
            output_bias=True,
            fire_shared=("batch", "channel"),
        )

    def theirs(self, x, draws):
        states = []
        for n in range(self.steps):
            u = self.w2(F.relu(self.w1(depthwise(x, GROWING, "zero"))))
            x = x + draws.mask(n)[:1] * torch.cat([torch.zeros_like(x[:, :2]), u], 1)
            states.append(x)
        return torch.stack(states)

    def ours(self, x):
        w, b = one(self.w1)
        return self.roll(x, [(filterwise(w, 3), b), one(self.w2)], at=range(1, self.steps + 1))


class SelfOrganizedControl(System):
    """Variengien et al. 2021: after every step electrodes are overwritten, and output cells get a constant."""

    def __init__(self, C=6, hidden=(12, 10)):
        super().__init__()
        self.conv, (self.d1, self.d2) = nn.Conv2d(C, hidden[0], 3, padding=1), network(*hidden, C)
        keep, add = torch.ones(3, C, *self.size), torch.zeros(3, C, *self.size)
        keep[:, 2:4], keep[:, :, 2, 3], keep[:, :, 5, 8] = 0, 0, 0
        add[:, 1:, 2, 3], add[:, 0, 2, 3], add[:, 3:, 7, 2] = 1, torch.tensor([0.2, -0.5, 0.9]), 1
        self.keep, self.add = keep, add
        self.rule = Rule(C, hidden, shifts(3), padding="zero", output_bias=True)

    def start(self, x):
        return x[:, :6]

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = x + self.d2(F.relu(self.d1(F.relu(self.conv(x))))) * draws.mask(n)
            x = x * self.keep + self.add
        return x

    def ours(self, x):
        first = self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias
        return self.roll(
            x, [first, one(self.d1), one(self.d2)], after=lambda x, new, n: torch.addcmul(self.add, new, self.keep)
        )


class CellFlow(System):
    """tulerpetontidae: FiLM after both hidden layers, by the class; the update is clamped and scaled."""

    def __init__(self, C=8, hidden=16, bound=0.2):
        super().__init__()
        self.bound = bound
        self.w = network(3 * C, hidden, hidden, C)
        self.film = nn.Parameter(torch.randn(3, 4, hidden))
        self.rule = Rule(
            C,
            (hidden, hidden),
            ("identity", "sobel_x", "sobel_y"),
            1.0,
            padding="zero",
            output_bias=True,
            update_activation=f"hardtanh({bound})/10",
        )

    def theirs(self, x, draws):
        g1, b1, g2, b2 = (t[:, :, None, None] for t in self.film.unbind(1))
        for _ in range(self.steps):
            y = torch.cat(
                [
                    x,
                    *(
                        F.conv2d(x, f.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])
                        for f in TEXTURE[1:3].to(x)
                    ),
                ],
                1,
            )
            h = g1 * F.relu(self.w[0](y)) + b1
            h = g2 * F.relu(self.w[1](h)) + b2
            x = x + self.w[2](h).clamp(-self.bound, self.bound) * 0.1  # theirs: 10
        return x

    def ours(self, x):
        first, (w2, c2), (w3, c3) = map(one, self.w)
        g1, b1, g2, b2 = self.film.unbind(1)
        return self.roll(x, [first, (w2 * g1[:, None], c2 + b1 @ w2.T), (w3 * g2[:, None], c3 + b2 @ w3.T)])


class DINCA(System):
    """koutefra: a few learned filters shared by all channels; the state is clamped to a range."""

    def __init__(self, C=3):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(6, 3, 3) * 0.5)
        self.w1, self.w2 = nn.Conv2d(6 * C, 20, 1, bias=False), nn.Conv2d(20, C, 1)
        given = {"hidden_bias": False, "output_bias": True, "clamp": (0.0, 0.5)}
        self.rule = Rule(C, (20,), (), learned_filters=6, **given)

    def start(self, x):
        return x[:, :3]

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = x + self.w2(F.relu(self.w1(depthwise(x, self.filters, "circular")))) * draws.mask(n)
            x = x.clamp(0.0, 0.5)
        return x

    def ours(self, x):
        seen = self.filters[:, None].expand(-1, x.shape[1], -1, -1)
        return self.roll(x, [(seen, None), (filterwise(one(self.w1)[0], 6), None), one(self.w2)])


class ReactionDiffusion(System):
    """latent-dynamical-systems: relu of the state plus its diffusion and tanh of a reaction; no hidden layer."""

    def __init__(self, C=6):
        super().__init__()
        self.mu, self.speed = nn.Parameter(torch.rand(1)), nn.Parameter(torch.rand(1, C, 1, 1))
        self.w = nn.Conv2d(3 * C, C, 1, bias=False)
        filters = ("identity", (-SOBEL).tolist(), (-SOBEL.T).tolist())
        self.rule = Rule(C, (), filters, 1.0, padding="zero", residual=False, update_activation="tanh")

    def start(self, x):
        return x[:, :6]

    def moved(self, x, reaction, mu, speed):
        cross = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
        diffusion = torch.exp(-3 + speed) * F.conv2d(x, cross.expand(6, 1, 3, 3), padding=1, groups=6)
        mu = torch.sigmoid(mu)
        return F.relu(x + mu * diffusion + (1 - mu) * reaction)

    def theirs(self, x, draws):
        for _ in range(self.steps):
            gradients = depthwise(x, torch.stack([-SOBEL, -SOBEL.T]), "zero")
            x = self.moved(x, torch.tanh(self.w(torch.cat([x, gradients], 1))), self.mu, self.speed)
        return x

    def ours(self, x):
        w, _ = one(self.w)
        weights = [(torch.cat([w[:, :6], filterwise(w[:, 6:], 2)], 1), None)]
        inputs = [self.mu, self.speed]
        return self.roll(x, weights, after=lambda x, new, n, *inputs: self.moved(x, new, *inputs), after_inputs=inputs)


class TokenNCA(System):
    """nca-pre-pretraining: the next state is drawn from logits, one-hot, without gradients."""

    differentiable = False

    def __init__(self, C=6):
        super().__init__()
        self.conv, (self.d1, self.d2) = nn.Conv2d(C, 4, 3, padding=1, padding_mode="circular"), network(4, 16, C)
        self.gumbel = -torch.log(-torch.log(torch.rand(self.steps, 3, C, *self.size)))
        self.rule = Rule(C, (4, 16), shifts(3), 1.0, output_bias=True, activation=("identity", "relu"), residual=False)

    def start(self, x):
        return F.one_hot(x[:, :6].argmax(1), 6).permute(0, 3, 1, 2).to(x)

    def drawn(self, logits, n):
        return F.one_hot((logits / 0.7 + self.gumbel[n]).argmax(1), 6).permute(0, 3, 1, 2).to(logits)

    def theirs(self, x, draws):
        for n in range(self.steps):
            x = self.drawn(self.d2(F.relu(self.d1(self.conv(x)))), n)
        return x

    def ours(self, x):
        first = self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias
        weights = [first, one(self.d1), one(self.d2)]

        def largest(x, new, n):  # what `drawn` gives, in half of the time: no two logits with noise are alike
            noisy = new / 0.7 + self.gumbel[n]
            return (noisy == noisy.amax(1, keepdim=True)).to(new)

        return self.roll(x, weights, after=largest)


class VNCA(System):
    """Palm et al. 2022 (MNIST): a dense convolution, ELU; every state is kept. Theirs has 128 channels."""

    def __init__(self, C=8, hidden=24):
        super().__init__()
        self.conv, self.w = nn.Conv2d(C, hidden, 3, padding=1), nn.Conv2d(hidden, C, 1, bias=False)
        self.rule = Rule(C, (hidden,), shifts(3), 1.0, padding="zero", activation="elu")

    def theirs(self, x, draws):
        states = []
        for _ in range(self.steps):
            x = x + self.w(F.elu(self.conv(x)))
            states.append(x)
        return torch.stack(states)

    def ours(self, x):
        weights = [(self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias), one(self.w)]
        return self.roll(x, weights, at=range(1, self.steps + 1))


class VAENCA(System):
    """Chen and Wang 2020 (MNIST), two rules for each sample that take turns, channels last."""

    def __init__(self, C=8):
        super().__init__()
        self.w0, self.b0 = (
            nn.Parameter(torch.randn(2, 3, 6 * C, 20) * 0.1),
            nn.Parameter(torch.randn(2, 3, 1, 20) * 0.1),
        )
        self.w1 = nn.Parameter(torch.randn(2, 3, 20, C) * 0.1)
        filters = ("identity", "sobel_y/8", "sobel_x/8", "sobel_y7/8", "sobel_x7/8")  # theirs swap rows and columns
        self.rule = Rule(C, (20,), filters, padding="zero", maximum_window=3, alive_channel=0)

    def start(self, x):
        return x + 0.01 * torch.rand(x.shape)  # of equal maxima theirs, rows and columns swapped, takes another one

    def theirs(self, x, draws):
        x = x.permute(0, 2, 3, 1)
        for n in range(self.steps):
            z = x.transpose(1, 3)
            before, seen, C = pool(z[:, :1]), [z], z.shape[1]
            for k in (3, 7):
                i = torch.arange(k) - k // 2
                g = i[None] / (i[None] ** 2 + i[:, None] ** 2).clamp(min=1)
                g = g / g.abs().sum()
                seen += [F.conv2d(z, f.expand(C, 1, k, k), padding=k // 2, groups=C) for f in (g, g.T)]
            y = torch.cat([*seen, F.max_pool2d(z, 3, 1, 1)], 1).transpose(1, 3)
            p = n % 2
            u = F.relu(y.flatten(1, 2) @ self.w0[p] + self.b0[p]) @ self.w1[p]
            z = z + (u.view(x.shape) * draws.mask(n).permute(0, 2, 3, 1)).transpose(1, 3)
            x = (z * (before & pool(z[:, :1]))).transpose(1, 3)
        return x.permute(0, 3, 1, 2)

    def ours(self, x):
        return self.roll(x, [(self.w0.mT, self.b0[:, :, 0]), (self.w1.mT, None)])


class ARCNCA(System):
    """etimush: Dropout2d on the perception and on the hidden units is another rule for every sample and step."""

    steps = 3

    def __init__(self, C=5):
        super().__init__()
        self.perc = nn.Conv2d(C, 4 * C, 3, padding=1, bias=False)
        self.w1, self.w2 = network(5 * C, 16, C, last_bias=False)
        self.drop1, self.drop2 = ((torch.rand(self.steps, 3, n) > 0.4) / 0.6 for n in (5 * C, 16))
        self.rule = Rule(C, (16,), shifts(3), padding="zero")

    def start(self, x):
        return x[:, :5]

    def theirs(self, x, draws):
        for n in range(self.steps):
            y = torch.cat([self.perc(x), x], 1) * self.drop1[n][:, :, None, None]
            h = F.relu(self.w1(y)) * self.drop2[n][:, :, None, None]
            x = x + self.w2(h) * draws.mask(n)
        return x

    def ours(self, x):
        (w, b), (w2, _) = one(self.w1), one(self.w2)
        seen = torch.cat([self.perc.weight, identity_kernels(x.shape[1])])
        W1 = torch.einsum("hp,sbp,pcij->sbhijc", w, self.drop1, seen).flatten(3)
        return self.roll(x, [(W1, b), (w2 * self.drop2[:, :, None], None)])
