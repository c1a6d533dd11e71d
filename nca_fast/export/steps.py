"""The steps of an automaton as an ONNX model: `nca_fast.reference`, node by node."""

import json
import math

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper

from nca_fast.activations import Activation
from nca_fast.export.draws import Draws
from nca_fast.export.graph import IR_VERSION, OPSET, Graph
from nca_fast.nca import NCA
from nca_fast.reference import split

SIZES = ("batch", "height", "width")


def model(
    nca: NCA, steps: int, batch: int | None = None, height: int | None = None, width: int | None = None
) -> ModelProto:
    """Makes a model that takes steps.

    Inputs are `state`, float32 [batch, C, height, width], and where something is drawn `seed`, int64 [], whose 64 bits
    count, and `first_step`, int64 [], 0 to 2**32 - 1. The output is `new_state`.

    Args:
        steps: How many. At least 1; several are a Loop.
        batch, height, width: Sizes that are fixed; None for any.

    Raises:
        ValueError: A canvas that is fixed is too small for its reflection.
    """
    rule = nca.rule
    _check_reflection(rule, height, width)
    graph = Graph()
    shape = graph.op("Shape", "state")
    sizes = [graph.op("Gather", shape, axis) for axis in (0, 2, 3)]
    noisy = rule.state_noise > 0 or rule.update_noise > 0
    draws = Draws(graph, rule, sizes, "seed", "first_step") if noisy or 0 < rule.fire_rate < 1 else None
    step = Step(graph, nca, sizes[1:], draws)
    result = step(0, "state") if steps == 1 else graph.loop(steps, "state", step)
    graph.nodes.append(helper.make_node("Identity", [result], ["new_state"]))
    named = [size or name for size, name in zip((batch, height, width), SIZES, strict=True)]
    shape = [named[0], rule.channels, *named[1:]]
    inputs = [helper.make_tensor_value_info("state", TensorProto.FLOAT, shape)]
    if draws is not None:
        inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, []) for name in ("seed", "first_step")]
    outputs = [helper.make_tensor_value_info("new_state", TensorProto.FLOAT, shape)]
    made = helper.make_graph(graph.nodes, "automaton", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    whole = helper.make_model(made, producer_name="nca_fast", opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(whole, {"nca": json.dumps(nca.config()), "steps": str(steps)})
    checker.check_model(whole, full_check=True)
    return whole


class Step:
    """One step in a graph. Called with the number of the trip of the loop and the name of a state, it gives the next's.

    Args:
        sizes: Names of height and width in the graph.
        draws: Of fire masks and noise; None where nothing is drawn.
    """

    def __init__(self, graph: Graph, nca: NCA, sizes: list[str], draws: Draws | None):
        self.graph, self.rule, self.draws = graph, nca.rule, draws
        kernels, layers = split(nca.weights, nca.rule)
        self.layers = [(_array(weight)[:, :, None, None], None if b is None else _array(b)) for weight, b in layers]
        self.stencils = [self._of_all(filter.kernel) for filter in self.rule.filters]
        self.stencils += [] if kernels is None else list(_array(kernels)[:, :, None])
        reaches = {stencil.shape[-1] // 2 for stencil in self.stencils}
        if self.rule.padding == "circular":  # around whose edges maxima look, too
            reaches |= {(self.rule.maximum_window or 1) // 2, 0 if self.rule.alive_channel is None else 1}
        self.beside = {} if self.rule.padding == "zero" else {r: self._beside(sizes, r) for r in sorted(reaches)}

    def __call__(self, trip: str | int, x: str) -> str:
        graph, rule, draws = self.graph, self.rule, self.draws
        was = None if rule.alive_channel is None else self._alive(x)
        number = None if draws is None else draws.step(trip)
        frozen, old = self._channels(x, 0, rule.frozen), self._channels(x, rule.frozen, rule.channels)
        if rule.state_noise > 0:
            old = graph.op("Add", old, graph.op("Mul", draws.normal(number, False), rule.state_noise))
            x = self._joined(frozen, old)
        u = self._perceived(x)
        for (weight, bias), activation in zip(self.layers, rule.activations, strict=True):
            u = self._activated(graph.op("Conv", u, weight, *([] if bias is None else [bias])), activation)
        if rule.update_noise > 0:
            u = graph.op("Add", u, graph.op("Mul", draws.normal(number, True), rule.update_noise))
        mask = draws.mask(number) if 0 < rule.fire_rate < 1 else np.full((1, 1, 1, 1), rule.fire_rate == 1)
        if rule.alive_channel is not None and rule.alive_mask == "update":
            mask = graph.op("And", mask, was)
        new = graph.op("Where", mask, graph.op("Add", old, u) if rule.residual else u, old)
        if rule.alive_channel is not None and rule.alive_mask != "update":
            new = self._living(was, frozen, new)
        if rule.clamp is not None:
            new = graph.op("Clip", new, *("" if bound is None else bound for bound in rule.clamp))
        return self._joined(frozen, new)

    def _of_all(self, kernel):
        size = len(kernel)
        return np.broadcast_to(np.array(kernel, np.float32), (self.rule.channels, 1, size, size))

    def _beside(self, sizes, reach):
        """Rows and columns that stand in the places -reach to size + reach - 1, as `reference.beside` has them."""
        graph, found = self.graph, []
        for size in sizes:
            place = graph.op("Range", -reach, graph.op("Add", size, reach), 1)
            last = graph.op("Sub", size, 1)
            if self.rule.padding == "circular":
                place = graph.op("Mod", place, size)
            elif self.rule.padding == "replicate":
                place = graph.op("Min", graph.op("Max", place, 0), last)
            else:
                mirrored = graph.op("Sub", last, graph.op("Abs", place))
                place = graph.op("Sub", last, graph.op("Abs", mirrored))
            found.append(place)
        return found

    def _extended(self, x, reach):
        for axis, places in zip((2, 3), self.beside[reach], strict=True):
            x = self.graph.op("Gather", x, places, axis=axis)
        return x

    def _channels(self, x, first, end):
        """Channels first to end - 1 of a state; None where there are none."""
        return self.graph.op("Slice", x, np.array([first]), np.array([end]), np.array([1])) if first < end else None

    def _joined(self, frozen, written):
        return written if frozen is None else self.graph.op("Concat", frozen, written, axis=1)

    def _perceived(self, x):
        graph, rule, parts = self.graph, self.rule, []
        zero, extended = rule.padding == "zero", {}
        for stencil in self.stencils:
            reach = stencil.shape[-1] // 2
            if reach not in extended:
                extended[reach] = x if zero else self._extended(x, reach)
            pads = [reach * zero] * 4
            parts.append(graph.op("Conv", extended[reach], stencil, group=rule.channels, pads=pads))
        if rule.maximum_window is not None:
            parts.append(self._maximum(x, rule.maximum_window, rule.padding == "circular"))
        return graph.op("Concat", *parts, axis=1)

    def _maximum(self, x, window, circular):
        """Takes the maximum around each cell, in which what MaxPool pads never wins."""
        reach = window // 2
        pads = [0 if circular else reach] * 4
        return self.graph.op(
            "MaxPool", self._extended(x, reach) if circular else x, kernel_shape=[window] * 2, pads=pads
        )

    def _alive(self, x):
        channel = self.rule.alive_channel
        around = self._maximum(self._channels(x, channel, channel + 1), 3, self.rule.alive_circular)
        return self.graph.op("Greater", around, self.rule.alive_threshold)

    def _living(self, was, frozen, new):
        graph, rule = self.graph, self.rule
        living = was if rule.alive_mask == "before" else self._alive(self._joined(frozen, new))
        living = graph.op("And", living, was) if rule.alive_mask == "both" else living
        return graph.op("Mul", new, graph.op("Cast", living, to=TensorProto.FLOAT))

    def _activated(self, t: str, activation: Activation) -> str:
        op, name, parameter = self.graph.op, activation.name, activation.parameter
        if name == "hardtanh":
            t = op("Clip", t, -parameter, parameter)
        elif name == "leaky_relu":
            t = op("LeakyRelu", t, alpha=parameter)
        elif name == "silu":
            t = op("Mul", t, op("Sigmoid", t))
        elif name == "gelu":  # an operator of a later opset
            share = op("Add", op("Erf", op("Mul", t, math.sqrt(0.5))), 1.0)
            t = op("Mul", op("Mul", t, 0.5), share)
        elif name != "identity":
            t = op({"relu": "Relu", "elu": "Elu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], t)
        return t if activation.divisor == 1 else op("Mul", t, 1 / activation.divisor)


def _array(tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _check_reflection(rule, height, width):
    reach = rule.filter_reach
    for name, size in (("height", height), ("width", width)):
        if size is not None and rule.padding == "reflect" and size <= reach:
            raise ValueError(f"{name} must be at least {reach + 1} for a rule with padding 'reflect', but got {size}.")
