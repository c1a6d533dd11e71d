"""Triton rollouts to compare: on a GPU if there is one, else in Triton's interpreter."""

import dataclasses
import functools
from importlib.util import find_spec

import torch
from rollouts import random_weights, relative_error, values_and_gradients

from nca_fast import rollout

FLOOR = 5e-7  # as in test_rollout; worst seen 4.3e-7: the single bias of one channel
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"


_replaced = set()  # modules of triton.language whose built-ins the launch under way has replaced


def skip_what_the_interpreter_does_for_nothing():
    """More than two thirds of its time.

    At every call of a device function it replaces the built-in functions of triton.language, whose members it searches
    anew each time, although they stay replaced until the launch ends. Whoever launches in another way calls
    `begin_launch` first. Of every sum of integers it works out in int64 whether it overflows, for an assertion that is
    none outside of debug mode. At every load and store it makes a table of dtypes, for every tensor its shape as
    constants, for every result its type, and for every number a tensor of it: of each there are few.
    """
    from triton import language
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):
        return  # another version of triton
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    replace, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def kept_dtype(type):
        name = type.scalar.name
        if name not in dtypes:
            dtypes[name] = dtype_of(type)
        return dtypes[name]

    dtypes, dtype_of, interpreter._get_np_dtype = {}, interpreter._get_np_dtype, kept_dtype

    def tensor(self, handle, type):
        if type.name in shapes:
            self.handle, self.type, self.dtype = handle, type, type.scalar
            self.shape, self.numel = shapes[type.name]
        else:
            make_tensor(self, handle, type)
            shapes[type.name] = self.shape, self.numel

    shapes, make_tensor, language.tensor.__init__ = {}, language.tensor.__init__, tensor

    def block_type(self, element_ty, shape):
        key = element_ty.name, *(s if type(s) is int else s.value for s in shape)
        if key in blocks:
            self.__dict__.update(blocks[key])
        else:
            make_block_type(self, element_ty, shape)
            blocks[key] = self.__dict__.copy()

    blocks, make_block_type, language.block_type.__init__ = {}, language.block_type.__init__, block_type

    def broadcast(self, a, b):
        if a.type.is_block() and b.type.is_block() and a.type.shape == b.type.shape:
            return a, b
        return broadcast_others(self, a, b)

    semantic = type(interpreter.interpreter_semantic)
    broadcast_others, semantic.broadcast_impl_value = semantic.broadcast_impl_value, broadcast

    def alike(self, a, b, *allowed, **options):
        key = None
        if isinstance(a, language.tensor) and not (a.type.is_ptr() or allowed[3:] or "div_or_mod" in options):
            if isinstance(b, language.tensor):
                if a.type.name == b.type.name:
                    return a, b
            else:
                key = repr(b), a.type.name
                if key in numbers:
                    return a, numbers[key]
        left, right = make_alike(self, a, b, *allowed, **options)
        if key and left is a:
            numbers[key] = right
        return left, right

    numbers, make_alike, semantic.binary_op_type_checking_impl = {}, semantic.binary_op_type_checking_impl, alike

    @functools.cache
    def languages_of(function):
        return {m for m in (language, language.core) if any(v is m for v in function.__globals__.values())}

    def replace_once(function):
        languages = languages_of(function)
        if languages <= _replaced:
            return interpreter._LangPatchScope()
        _replaced.update(languages)
        return replace(function)

    def launch_alone(*args, **kwargs):
        begin_launch()
        return launch(*args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = replace_once, launch_alone


def begin_launch():
    """Says that the built-ins are those of Triton again."""
    _replaced.clear()


if INTERPRETED and find_spec("triton"):
    skip_what_the_interpreter_does_for_nothing()


def small_programs(monkeypatch, count=None):
    """Programs of `count` columns or cells; None: in the interpreter 64, the fastest, on a GPU as they are."""
    from nca_fast.kernels.triton.single_pass import plan
    from nca_fast.kernels.triton.through_memory import steps as through_memory

    count = count or (64 if INTERPRETED else None)
    for sizes in (plan.COLUMNS, through_memory.CELLS, through_memory.UNITS) if count else ():
        for precision in sizes:
            monkeypatch.setitem(sizes, precision, count)


def weights_of(rule, batch=None):
    """Random weights, beside the states."""
    return [tuple(None if t is None else t.to(DEVICE) for t in pair) for pair in random_weights(rule, batch)]


def check(
    rule,
    shape,
    steps=2,
    dtype=torch.float32,
    precision="fp32",
    factor=2,
    floor=FLOOR,
    per_sample=False,
    spacing=None,
    **options,
):
    """At most `factor` times the error of plain PyTorch at the same precision; see test_rollout for the policy.

    With spacing, states are its multiples, so that many are equal. Launches are not those of an earlier test, which may
    have cut steps otherwise.
    """
    from nca_fast.kernels.triton import laid_out

    laid_out.forget()
    B, H, W = shape
    torch.manual_seed(1)
    weights = weights_of(rule, B if per_sample else None)
    x = torch.randn(B, rule.channels, H, W) * 0.5
    x = (x if spacing is None else (x / spacing).round() * spacing).to(DEVICE, dtype)
    grad_y = torch.randn(x.shape).to(DEVICE, dtype)
    options = {"seed": 11, "origin": (3, 2**32 - 4), "first_sample": 2} | options
    exact = values_and_gradients(
        rule, weights, x.double(), grad_y, steps, backend="reference", dtype=torch.float64, **options
    )
    plain, fused = (
        mixed(rule, weights, x, grad_y, steps, backend=b, precision=precision, **options)
        for b in ("reference", "triton")
    )
    for e, p, f in zip(exact, plain, fused, strict=True):
        assert (e is None) == (f is None)
        if e is not None:
            assert f.dtype == p.dtype and f.device == p.device
            assert relative_error(f, e) <= max(factor * relative_error(p, e), floor)


def mixed(rule, weights, x, grad_y, steps, **options):
    """`values_and_gradients` of float32 weights and a state of any type, of seed 0 unless one is given."""
    x = x.clone().requires_grad_()
    weights = [tuple(None if t is None else t.clone().requires_grad_() for t in pair) for pair in weights]
    frame = {name: options[name].clone().requires_grad_() for name in options if name == "frame"}
    y = rollout(x, weights, rule, steps, **{"seed": 0} | options | frame)
    y.backward(grad_y)
    return [y.detach(), x.grad] + [t.grad for pair in [*weights, frame.values()] for t in pair if t is not None]


def bfloat16_factor(dtype):
    """The interpreter cuts to bfloat16 where a GPU rounds: twice the error each time, and always towards zero."""
    return 8 if INTERPRETED and dtype == torch.bfloat16 else 2
