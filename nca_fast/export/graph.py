"""An ONNX graph in the making: what is called here becomes a node, and numbers become constants."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 18, 8  # of 2023: the first with integer bit operations


class Graph:
    """Collects nodes and constants.

    Values are known by name. Wherever an operator takes one, a number may stand in its place: a bool, an int (int64), a
    float (float32) or an array.
    """

    def __init__(self):
        self.nodes: list[NodeProto] = []
        self.constants: dict[tuple, TensorProto] = {}
        self._names = count()

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Adds a node of one output, and gives its name."""
        name = f"v{next(self._names)}"
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def loop(self, trips: int, state: str, body: Callable[[str, str], str]) -> str:
        """Adds a Loop of `trips` times `body`: (number of the trip, state) -> state. It sees what this graph has."""
        outer, self.nodes = self.nodes, []
        number, going, before = (f"v{next(self._names)}" for _ in range(3))
        after = self.op("Identity", body(number, before))
        still = self.op("Identity", going)
        inputs = [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(before, TensorProto.FLOAT, None),
        ]
        outputs = [
            helper.make_tensor_value_info(still, TensorProto.BOOL, []),
            helper.make_tensor_value_info(after, TensorProto.FLOAT, None),
        ]
        inner, self.nodes = helper.make_graph(self.nodes, "step", inputs, outputs), outer
        return self.op("Loop", trips, True, state, body=inner)

    def bits(self, kind: str, a: Any, b: Any) -> str:
        """Adds a bit operation, "And" or "Xor"."""
        return self.op(f"Bitwise{kind}", a, b)

    def shifted(self, word: str, places: int) -> str:
        """Shifts numbers of at least 0 to the right, which is a division: BitShift has no int64."""
        return self.op("Div", word, 1 << places)

    def _constant(self, value):
        kind = {bool: np.bool_, int: np.int64, float: np.float32}.get(type(value))
        array = np.asarray(value, kind)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"c{len(self.constants)}")
        return self.constants[key].name
