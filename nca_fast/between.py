"""A rollout with a function of the caller's between the steps: one autograd node.

    y = step(x)        by the kernels
    x = after(x, y, n, *inputs)

Backward, from the gradient g of the state after step n: (g_x, g_y, g_inputs) are the function's gradients at (x, y,
inputs) for g, and the gradient of x is g_x + step^T g_y. What autograd kept of the function in the forward pass serves,
and is freed step by step. With `checkpoint_every` states alone are kept: y is computed again, and the function too,
twice. A callable is no argument of a registered operator, hence this way beside `operators`.
"""

import torch
from torch import Tensor

from nca_fast import backends, operators, running
from nca_fast.arguments import checked_state
from nca_fast.once import once

IMPURE = 1e-3  # of a state's norm: so far apart are no two results of a pure function, in whatever order it sums


def rollout(x, params, drawn, fire, noise, field, settings, after, inputs) -> Tensor:
    """Runs steps by the kernels of a backend, and `after` between them.

    Args:
        x, params, drawn, fire, noise, field: As in `operators.rollout`.
        settings: (rule, backend, precision, steps, every, passed, place, at), where every such state is saved for the
            gradient, or None for what the function computed, too; the last `passed` steps pass it on, and `at` is a
            range of states that are asked for, or None.
        after, inputs: As in `nca_fast.rollout`.

    Raises:
        RuntimeError: Transforms of torch.func are at work.
    """
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            'rollout with `after` cannot be transformed by torch.func in a kernel: use backend="convolutions".'
        )
    learned = [t for t in (x, params, field, *inputs) if t is not None]
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in learned)
    return _Between.apply(x, params, drawn, fire, noise, field, settings, differentiable, after, *inputs)


# What torch.compiler.disable does, which imports the compiler: it cannot trace kernels that are no operators.
rollout._torchdynamo_disable = True


class _Run:
    """The kernels of a rollout, opened: single steps forward and back."""

    def __init__(self, params, drawn, fire, noise, field, settings):
        rule, backend, precision, _, _, _, place, _ = settings
        self.kernels, self.rule, self.fire = backends.kernels(backend), rule.kernel_rule, fire
        self.weights = running.packed(self.kernels, params, self.rule, precision, noise, field)
        self.place = running.seeded(place, drawn)

    def step(self, x, n):
        """The state after step n of the rollout, [B, C, H, W]."""
        state = self.kernels.to_layout(x)
        y = torch.empty_like(state)
        self.kernels.advance(state, self.weights, self.fire, self.rule, self.place.after(n), y[None], 1)
        return self.kernels.from_layout(y, x.shape[1])

    def back(self, x, grad_y, n, buffer):
        """The gradient of the state before step n, [B, C, H, W]; that of the weights is added to the buffer."""
        state, grad = self.kernels.to_layout(x), self.kernels.to_layout(grad_y.contiguous())
        if grad.data_ptr() == grad_y.data_ptr() and not self.kernels.READS_GRADIENT:
            grad = grad.clone()
        place = self.place.after(n)
        grad = self.kernels.backward(state[None], grad, self.weights, self.fire, self.rule, place, buffer)
        return self.kernels.from_layout(grad, grad_y.shape[1])


class _Call:
    """A call of the caller's function, kept by autograd; `state` is what it gave, without a graph."""

    def __init__(self, after, x, y, n, inputs):
        self.leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in (x, y, *inputs)]
        with torch.enable_grad():
            self.result = checked_state(after(*self.leaves[:2], n, *self.leaves[2:]), y)
        self.x, self.state = x, self.result.detach()

    def gradients(self, g, keep=False):
        """Those of x, y and inputs for that of the state, None for what it does not take; `keep` for another time."""
        wanted = [t for t in self.leaves if t.requires_grad]
        if not self.result.requires_grad:
            return [None] * len(self.leaves)
        found = iter(torch.autograd.grad(self.result, wanted, g, allow_unused=True, retain_graph=keep))
        return [next(found) if t.requires_grad else None for t in self.leaves]


class _Between(torch.autograd.Function):
    """The rollout; its states are saved at x and after every `every` steps from the first on that passes gradient."""

    @staticmethod
    def forward(ctx, x, params, drawn, fire, noise, field, settings, differentiable, after, *inputs):
        *_, steps, every, passed, place, at = settings
        run, saved, kept, second = _Run(params, drawn, fire, noise, field, settings), [], [], None
        ctx.calls, first = [], steps - passed
        for n in range(steps if at is None else at[-1]):
            y, number = run.step(x, n), place.first_step + n
            if differentiable and every is None and n >= first:
                ctx.calls.append(_Call(after, x, y, number, inputs))
                x = ctx.calls[-1].state
            else:
                if every is not None and n >= first and (n - first) % every == 0:
                    saved.append(x)
                x = checked_state(after(x, y, number, *inputs), y)
            second = x if n == first else second
            if at is not None and n + 1 in at:
                kept.append(x)
        ctx.save_for_backward(params, drawn, fire, noise, field, second, *inputs, *saved)
        ctx.settings, ctx.after, ctx.inputs = settings, after, len(inputs)
        return x.clone() if at is None else torch.stack(kept)

    jvp = staticmethod(operators.no_forward_mode)

    @staticmethod
    @once(operators.ONCE)
    def backward(ctx, grad):
        params, drawn, fire, noise, field, second, *others = ctx.saved_tensors
        inputs, saved = others[: ctx.inputs], others[ctx.inputs :]
        *_, steps, every, passed, _, at = ctx.settings
        last, first = steps if at is None else at[-1], steps - passed
        if last <= first:  # the gradient ends after the last state that was asked for
            return (None,) * (9 + len(inputs))
        run = _Run(params, drawn, fire, noise, field, ctx.settings)
        again = torch._C._autograd._get_current_graph_task_keep_graph()
        buffer, g, grad_inputs = None, grad if at is None else 0, [torch.zeros_like(t) for t in inputs]
        for n, call in _called_again(ctx, run, inputs, saved) if every else _kept_calls(ctx.calls, first, again):
            if at is not None and n + 1 in at:
                g = g + grad[at.index(n + 1)]
            g_x, g_y, *g_inputs = call.gradients(g, again)
            if every and n == first:
                _check_pure(call.state, second)
            for total, more in zip(grad_inputs, g_inputs, strict=True):
                if more is not None:
                    total += more
            if buffer is None:
                buffer = run.kernels.gradient_buffer(run.weights, run.kernels.to_layout(call.x))
            g = torch.zeros_like(call.x) if g_y is None else run.back(call.x, g_y, n, buffer)
            g = g if g_x is None else g.add_(g_x)
        grad_x = g if passed == steps and ctx.needs_input_grad[0] else None
        weights, frames = run.kernels.reduce_gradients(buffer, run.weights)
        return grad_x, weights, None, None, None, frames, None, None, None, *grad_inputs


def _kept_calls(calls, first, keep):
    """Yields the calls of the forward pass, last to first, each with the number of its step; frees what is done."""
    for i in reversed(range(len(calls))):
        yield first + i, calls[i] if keep else calls.pop()


def _called_again(ctx, run, inputs, saved):
    """Computes the steps between saved states again, and calls the function; yields as `_kept_calls`."""
    *_, steps, every, passed, place, at = ctx.settings
    first, last = steps - passed, steps if at is None else at[-1]
    for start in reversed(range(first, last, every)):
        x, end, states = saved[(start - first) // every], min(start + every, last), []
        for n in range(start, end):  # the last of them is called below
            y = run.step(x, n)
            states.append((x, y))
            if n + 1 < end:
                x = ctx.after(x, y, place.first_step + n, *inputs)
        for n in reversed(range(start, end)):
            yield n, _Call(ctx.after, *states[n - start], place.first_step + n, inputs)


def _check_pure(again, before):
    """Compares what the caller's function gave in the backward pass with what it had given in the forward pass."""
    off, size = (torch.linalg.vector_norm(t.float()) for t in (again - before, before))
    if bool(off > IMPURE * size):
        raise RuntimeError(
            "after must be a pure function where checkpoint_every is given, but gave another state in the backward "
            "pass than in the forward pass, so that gradients would be wrong: draw by nca_fast.fire_mask or "
            "nca_fast.normal, or leave checkpoint_every out, and it is called once."
        )
