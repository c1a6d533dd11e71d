"""What rules ask for beyond Distill's step, in the Triton kernels: values and every gradient against the reference.

As in test_triton.py. A rule here has several fields at once, because each costs the interpreter a second: of those that
meet in a line of a kernel, each kind of fork is taken by one rule. Draws are compared bit for bit in
test_fields_of_rules.py.
"""

from dataclasses import replace

import pytest
import torch
from rollouts import relative_error, values_and_gradients
from triton_rollouts import DEVICE, INTERPRETED, check, mixed, small_programs, weights_of

from nca_fast import Rule, rollout

pytest.importorskip("triton", reason="the Triton kernels need triton: pip install triton")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Programs of 16 columns or cells in the interpreter: several of them, of little each."""
    small_programs(monkeypatch, 16 if INTERPRETED else None)


BASE = Rule(5, (8,), ("identity", "sobel_x", "sobel_y"), frozen=1, output_bias=True)
LIFE = replace(BASE, alive_channel=3)
# In a single pass, forward and backward.
SINGLE = {
    "alive before, channels fire for themselves, the update alone": replace(
        LIFE, alive_mask="before", alive_padding="zero", fire_shared=(), residual=False
    ),
    "alive update, leaky, rows fire together": replace(
        LIFE, alive_mask="update", padding="zero", activation="leaky_relu(0.2)", fire_shared=("channel", "height")
    ),
    "alive after, tanh, columns fire together, noise": replace(
        LIFE, alive_mask="after", activation="tanh", fire_shared=("channel", "width"), update_noise=0.1
    ),
    "alive both, elu, samples fire together, noise of the state": replace(
        LIFE, activation="elu", fire_shared=("batch", "channel"), state_noise=0.1, residual=False
    ),
}
# Backward through memory, and forward where it says so.
MEMORY = {
    "reflect, gelu, clamp, alive update": replace(
        LIFE, padding="reflect", activation="gelu", clamp=(-0.4, 0.3), alive_mask="update", fire_shared=()
    ),
    "replicate, sigmoid, tanh of the update, alive before": replace(
        LIFE, padding="replicate", activation="sigmoid", update_activation="tanh/2", alive_mask="before"
    ),
    "forward too, two layers, noise, alive both": Rule(
        6,
        (7, 8),
        ("identity", "sobel_y5/8"),
        frozen=1,
        maximum_window=3,
        padding="reflect",
        alive_channel=3,
        activation=("silu", "leaky_relu(0.2)"),
        update_activation="hardtanh(0.3)/2",
        residual=False,
        clamp=(-0.6, None),
        state_noise=0.1,
        update_noise=0.1,
        fire_shared=("width",),
    ),
    "forward too, replicate, alive after": Rule(
        5, (6,), ("sobel_x9",), padding="replicate", alive_channel=2, alive_mask="after", activation="relu/2"
    ),
    "no hidden layer": Rule(5, (), output_bias=True, update_activation="sigmoid", residual=False, fire_rate=0.7),
    "two layers, one after another": Rule(4, (5, 20), activation=("identity", "relu"), hidden_bias=False),
}


@pytest.mark.parametrize("name", [*SINGLE, *MEMORY])
def test_fields(name, poisoned):
    rule = (SINGLE | MEMORY)[name]
    options = {"noise": torch.tensor([0.5, 1.0], device=DEVICE)} if rule.update_noise else {}
    check(rule, (2, 4, 18) if name in SINGLE else (2, 4, 5), spacing=None if rule.state_noise else 0.25, **options)


def test_fields_go_the_way_that_their_names_say():
    from nca_fast.kernels.triton.limits import through_memory

    for name, rule in SINGLE.items():
        assert through_memory(rule.kernel_rule, "fp16") == (False, False), name
    forward = ("forward too", "no hidden layer")
    for name, rule in MEMORY.items():
        assert through_memory(rule.kernel_rule, "fp16") == (name.startswith(forward), True), name


@pytest.mark.parametrize("window", [None, 3], ids=["single pass", "through memory"])
def test_weights_and_rates_by_step(window, poisoned):
    """Of each sample and step; periods 2 and 3. Errors are those of test_fields_of_rules."""
    rule = Rule(4, (5,), ("sobel_x",), frozen=1, output_bias=True, maximum_window=window)
    torch.manual_seed(3)
    (w, b), (w2, b2) = weights_of(rule, 2)
    weights = [(torch.stack([w, -w]), b.expand(3, 2, 5) * torch.arange(3, device=DEVICE)[:, None, None]), (w2[0], b2)]
    x, rates = torch.randn(2, 4, 3, 6, device=DEVICE) * 0.5, torch.rand(2, 2, 3, 3, 6, device=DEVICE)
    found = [
        values_and_gradients(rule, weights, x, x.cos(), 4, backend=b, dtype=d, first_step=3, fire_rate=rates)
        for b, d in (("reference", torch.float64), ("triton", torch.float32))
    ]
    for exact, got in zip(*found, strict=True):
        assert relative_error(got, exact) < 2e-6  # worst seen 3e-7


@pytest.mark.parametrize("size", [(1, 1, 5), (2, 65, 33), (1, 130, 32)], ids=str)
def test_sums_of_a_step_are_added_to_its_entry(size):
    """Exactly, for they are integers here; they are zero afterwards, and nothing beyond them is read or written."""
    from nca_fast.kernels.triton.step_sums import add_sums

    rules, lines, packed = size
    memory = torch.full((rules * lines * packed + 4096,), torch.nan, device=DEVICE)
    sums = memory[: rules * lines * packed].view(rules * lines, packed)
    sums.copy_(torch.randint(-9, 9, sums.shape))
    entries = torch.full((3, rules, packed), 0.5, device=DEVICE)
    want = entries[1] + sums.view(rules, lines, packed).sum(1)
    add_sums(sums, entries[1])
    assert torch.equal(entries[1], want) and not sums.any()
    assert (entries[::2] == 0.5).all() and memory[sums.numel() :].isnan().all()


@pytest.mark.parametrize(("mode", "dtype"), [("both", torch.float32), ("after", torch.float16)])
def test_the_mask_that_a_state_carries_is_the_one_that_is_computed(mode, dtype):
    """Gradients have the same bits, whether each step back reads who lived or takes a step to know it.

    Cells are dead, or alive and zero in all they write, next to each other; and a state in float16 may lie on the other
    side of the threshold than the one that was looked at.
    """
    from nca_fast.kernels.triton import rollout as rollouts

    followed = []
    rule = replace(LIFE, alive_mask=mode, padding="zero", output_bias=False)
    x = torch.zeros(1, 5, 5, 20, device=DEVICE, dtype=dtype)
    x[:, :, 2, 4], x[:, 3, 4, 15], x[:, -1, 2, 5] = 1.0, 0.101, -9.0
    weights, found, kept = weights_of(rule), [], rollouts.backward_step
    for forgets in (False, True):

        def backward_step(*arguments, forgets=forgets):
            following = arguments[7] if len(arguments) > 7 else None
            followed.append(following is not None)
            kept(*arguments[:7], None if forgets else following)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rollouts, "backward_step", backward_step)
            found.append(mixed(rule, weights, x, torch.ones_like(x), 3, backend="triton", precision="fp32"))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert any(followed)
    last = found[0][0][0, -1]
    assert ((last == 0) & torch.signbit(last)).any() and ((last == 0) & ~torch.signbit(last)).any() and last.min() < -1


def test_float16_products_of_other_functions(poisoned):
    """Units of tanh are not scaled, and those after them for what tanh can give.

    Plain PyTorch rounds what products of the forward pass are given, the kernels gradients too: worst seen 2.2 times
    its error, and as much for relu.
    """
    rule = Rule(4, (8, 8), ("sobel_x",), activation=("tanh", "relu"), fire_rate=1.0)
    check(rule, (1, 3, 9), precision="fp16", factor=4)
    x, rule = torch.full((1, 4, 3, 5), 2.0**14, device=DEVICE), Rule(4, (4,), activation="leaky_relu(0.5)")
    y = rollout(x, weights_of(rule), rule, 1, seed=0, backend="triton", precision="fp16")
    assert y.isfinite().all()
