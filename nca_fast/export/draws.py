"""Fire masks and normal numbers in an ONNX graph: the formulas of `nca_fast.fire_masks` and `nca_fast.normals`.

ONNX has no arithmetic modulo 2**32 that every engine computes, so words are int64 from 0 to 2**32 - 1, and no product
reaches 2**63: a factor that is too large is multiplied in halves.
"""

import math
from collections.abc import Iterable
from functools import partial

import numpy as np
from onnx import TensorProto

from nca_fast.export.graph import Graph
from nca_fast.fire_masks import COLUMN_STEP, MIX_1, MIX_2, PHILOX_MULTIPLY, PHILOX_WEYL, WORD
from nca_fast.normals import UNIT
from nca_fast.rule import Rule


class Draws:
    """What is drawn in the steps of one rollout.

    Args:
        graph: Gets the nodes.
        rule: Says what is drawn.
        sizes: Names of batch, height and width in the graph, int64 [].
        seed, first_step: Names of the inputs, int64 []; of the seed the 64 bits count.
    """

    def __init__(self, graph: Graph, rule: Rule, sizes: list[str], seed: str, first_step: str):
        self.graph, self.rule, self.first_step = graph, rule, first_step
        batch, height, width = (graph.op("Range", 0, size, 1) for size in sizes)
        self.samples = graph.op("Reshape", batch, np.array([-1, 1, 1, 1]))
        self.rows = graph.op("Reshape", height, np.array([-1, 1]))
        self.columns = width
        low = graph.bits("And", seed, WORD)
        high = graph.bits("And", graph.op("Div", graph.op("Sub", seed, low), WORD + 1), WORD)
        self.round_keys = [
            tuple(
                self._word("Add", key, number * weyl & WORD) for key, weyl in zip((low, high), PHILOX_WEYL, strict=True)
            )
            for number in range(10)
        ]

    def step(self, trip: str | int) -> str:
        """Gives the number of the step of a trip of the loop."""
        return self._word("Add", self.first_step, trip)

    def mask(self, step: str) -> str:
        """Says who fires. bool, [B or 1, 1 or written, H or 1, W or 1]"""
        rule = self.rule
        shared = rule.fire_shared
        lanes = (0,) if "channel" in shared else range(rule.frozen, rule.channels)
        word = self._hashed(self._keys(step, shared), (0, 1), lanes, shared)
        return self.graph.op("Less", word, math.ceil(rule.fire_rate * 2**32))

    def normal(self, step: str, of_update: bool) -> str:
        """Draws normal numbers of mean 0 and variance 1 for the written channels. float32, [B, written, H, W]"""
        graph, rule, keys = self.graph, self.rule, self._keys(step)
        first = rule.channels * of_update
        a, b, c = (
            self._hashed(keys, (2, 3), [3 * (first + channel) + i for channel in range(rule.frozen, rule.channels)])
            for i in range(3)
        )
        ones = graph.op("Sub", graph.op("Add", self._ones(a), self._ones(b)), 32)
        rest = graph.op("Sub", graph.bits("And", c, 0xFFFF), graph.shifted(c, 16))
        whole = graph.op("Cast", graph.op("Add", graph.op("Mul", ones, 65536), rest), to=TensorProto.FLOAT)
        return graph.op("Mul", whole, UNIT)

    def _word(self, kind, a, b):
        """Adds or multiplies, modulo 2**32."""
        return self.graph.bits("And", self.graph.op(kind, a, b), WORD)

    def _product(self, word, factor):
        """Multiplies words by one: high and low words of the products."""
        graph = self.graph
        low, high = graph.op("Mul", word, factor & 0xFFFF), graph.op("Mul", word, factor >> 16)
        low = graph.op("Add", low, graph.op("Mul", graph.bits("And", high, 0xFFFF), 1 << 16))
        return graph.op("Add", graph.shifted(high, 16), graph.shifted(low, 32)), graph.bits("And", low, WORD)

    def _keys(self, step, shared=()):
        """Draws the four words of each row. [B or 1, 1, H or 1, 1]"""
        xor = partial(self.graph.bits, "Xor")
        c0, c2 = 0 if "height" in shared else self.rows, step
        c1, c3 = 0 if "batch" in shared else self.samples, 0
        for k0, k1 in self.round_keys:
            high0, low0 = self._product(c0, PHILOX_MULTIPLY[0])
            high1, low1 = self._product(c2, PHILOX_MULTIPLY[1])
            c0, c1, c2, c3 = xor(xor(high1, c1), k0), low1, xor(xor(high0, c3), k1), low0
        return c0, c1, c2, c3

    def _hashed(self, keys, words, lanes: Iterable[int], shared=()):
        """Draws a word for each cell and lane. [B or 1, lanes, H or 1, W or 1]"""
        graph = self.graph
        starts = np.array([lane * COLUMN_STEP & WORD for lane in lanes], np.int64).reshape(-1, 1, 1)
        columns = np.zeros(1, np.int64) if "width" in shared else self.columns
        z = self._word("Add", self._product(self._word("Add", columns, starts), COLUMN_STEP)[1], keys[words[0]])
        z = graph.bits("Xor", z, graph.shifted(z, 16))
        for factor in (MIX_1, MIX_2):  # below 2**31
            z = self._word("Mul", z, factor)
            z = graph.bits("Xor", z, graph.shifted(z, 15))
        return graph.bits("Xor", z, keys[words[1]])

    def _ones(self, v):
        """Counts the ones among the bits of words."""
        graph = self.graph

        def part(bits, places, mask):
            return graph.bits("And", graph.shifted(bits, places), mask)

        v = graph.op("Sub", v, part(v, 1, 0x55555555))
        v = graph.op("Add", graph.bits("And", v, 0x33333333), part(v, 2, 0x33333333))
        v = graph.bits("And", graph.op("Add", v, graph.shifted(v, 4)), 0x0F0F0F0F)
        return part(graph.op("Mul", v, 0x01010101), 24, 0xFF)
