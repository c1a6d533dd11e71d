"""A rollout with a function of the caller's between the steps: one autograd node, which saves states only.

    y = step(x)        by the kernels
    x = after(x, y, n, *inputs)

Backward, from the gradient g of the state after step n: y is computed again, (g_x, g_y, g_inputs) are the function's
gradients at (x, y, inputs) for g, and the gradient of x is g_x + step^T g_y. It costs a step forward more than a
rollout without, and the function twice. A callable is no argument of a registered operator, hence this way beside
`operators`.
"""

import torch
from torch import Tensor

from nca_fast import backends, operators
from nca_fast.arguments import checked_state

IMPURE = 1e-3  # of a state's norm: so far apart are no two results of a pure function, in whatever order it sums


def rollout(x, params, drawn, fire, noise, settings, after, inputs) -> Tensor:
    """Runs steps by the kernels of a backend, and `after` between them.

    Args:
        x, params, drawn, fire, noise: As in `operators.rollout`.
        settings: (rule, backend, precision, steps, every, passed, place, at), where every such state is saved for the
            gradient, the last `passed` steps pass it on, and `at` is a range of states that are asked for, or None.
        after, inputs: As in `nca_fast.rollout`.

    Raises:
        RuntimeError: Transforms of torch.func are at work.
    """
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            'rollout with `after` cannot be transformed by torch.func in a kernel: use backend="convolutions".'
        )
    return _Between.apply(x, params, drawn, fire, noise, settings, after, *inputs)


# What torch.compiler.disable does, which imports the compiler: it cannot trace kernels that are no operators.
rollout._torchdynamo_disable = True


class _Run:
    """The kernels of a rollout, opened: single steps forward and back."""

    def __init__(self, params, drawn, fire, noise, settings):
        rule, backend, precision, _, _, _, place, _ = settings
        self.kernels, self.rule, self.fire = backends.kernels(backend), rule.kernel_rule, fire
        self.weights = operators.packed(self.kernels, params, self.rule, precision, noise)
        self.place = operators.seeded(place, drawn)

    def step(self, x, n):
        """The state after step n of the rollout, [B, C, H, W], and x in the kernels' layout."""
        state = self.kernels.to_layout(x)
        y = torch.empty_like(state)
        self.kernels.advance(state, self.weights, self.fire, self.rule, self.place.after(n), y[None], 1)
        return self.kernels.from_layout(y, x.shape[1]), state

    def back(self, state, grad_y, n, buffer):
        """The gradient of the state before step n, [B, C, H, W]; that of the weights is added to the buffer."""
        grad = self.kernels.to_layout(grad_y.contiguous())
        grad = grad.clone() if grad.data_ptr() == grad_y.data_ptr() else grad
        place = self.place.after(n)
        grad = self.kernels.backward(state[None], grad, self.weights, self.fire, self.rule, place, buffer)
        return self.kernels.from_layout(grad, grad_y.shape[1])


class _Between(torch.autograd.Function):
    """The rollout; its states are saved at x and after every `every` steps from the first on that passes gradient."""

    @staticmethod
    def forward(ctx, x, params, drawn, fire, noise, settings, after, *inputs):
        *_, steps, every, passed, place, at = settings
        run, saved, kept, second = _Run(params, drawn, fire, noise, settings), [], [], None
        first = steps - passed
        for n in range(steps if at is None else at[-1]):
            if n >= first and (n - first) % every == 0:
                saved.append(x)
            y = run.step(x, n)[0]
            x = checked_state(after(x, y, place.first_step + n, *inputs), y)
            second = x if n == first else second
            if at is not None and n + 1 in at:
                kept.append(x)
        ctx.save_for_backward(params, drawn, fire, noise, second, *inputs, *saved)
        ctx.settings, ctx.after, ctx.inputs = settings, after, len(inputs)
        return x.clone() if at is None else torch.stack(kept)

    jvp = staticmethod(operators.no_forward_mode)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        params, drawn, fire, noise, second, *others = ctx.saved_tensors
        inputs, saved = others[: ctx.inputs], others[ctx.inputs :]
        *_, steps, every, passed, place, at = ctx.settings
        if not saved:  # the gradient ends after the last state that was asked for
            return (None,) * (7 + len(inputs))
        run, first = _Run(params, drawn, fire, noise, ctx.settings), steps - passed
        buffer = run.kernels.gradient_buffer(run.weights, run.kernels.to_layout(saved[0]))
        grad_inputs = [torch.zeros_like(t) for t in inputs]
        last = steps if at is None else at[-1]
        g = grad.clone() if at is None else torch.zeros_like(saved[0])
        for start in reversed(range(first, last, every)):
            states, x = [], saved[(start - first) // every]
            for n in range(start, min(start + every, last)):  # y of the last of them is computed again below
                y, state = run.step(x, n)
                states.append((x, y, state))
                if n + 1 < min(start + every, last):
                    x = ctx.after(x, y, place.first_step + n, *inputs)
            for n, (x, y, state) in reversed(list(enumerate(states, start))):
                if at is not None and n + 1 in at:
                    g = g + grad[at.index(n + 1)]
                again, (g_x, g_y, *g_inputs) = _gradients(ctx.after, x, y, place.first_step + n, inputs, g)
                if n == first:
                    _check_pure(again, second)
                for total, more in zip(grad_inputs, g_inputs, strict=True):
                    total += more
                g = g_x + run.back(state, g_y, n, buffer)
        grad_x = g if passed == steps and ctx.needs_input_grad[0] else None
        return grad_x, run.kernels.reduce_gradients(buffer, run.weights), None, None, None, None, None, *grad_inputs


def _check_pure(again, before):
    """Compares what the caller's function gave in the backward pass with what it had given in the forward pass."""
    off, size = (torch.linalg.vector_norm(t.float()) for t in (again - before, before))
    if bool(off > IMPURE * size):
        raise RuntimeError(
            "after must be a pure function, but gave another state in the backward pass than in the forward pass, so "
            "that gradients would be wrong: draw by nca_fast.fire_mask or nca_fast.normal, or use "
            'backend="convolutions", which calls it once.'
        )


def _gradients(after, x, y, n, inputs, g):
    """Calls the caller's function once more and differentiates it.

    Returns:
        Its state, and the gradients of x, y and inputs for that of the state, zeros for what it does not take.
    """
    leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in (x, y, *inputs)]
    with torch.enable_grad():
        state = after(leaves[0], leaves[1], n, *leaves[2:])
    wanted = [t for t in leaves if t.requires_grad]
    found = iter(
        torch.autograd.grad(state, wanted, g, allow_unused=True) if state.requires_grad else [None] * len(wanted)
    )
    grads = [next(found) if t.requires_grad else None for t in leaves]
    grads = [torch.zeros_like(t) if grad is None else grad for t, grad in zip(leaves, grads, strict=True)]
    return state.detach(), grads
