"""What runs on a canvas: one automaton, or several that share it by a map, at speeds that a map may change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nca_fast import arguments, backends, ops
from nca_fast.canvas.maps import Map, add, shares
from nca_fast.canvas.paint import Paint
from nca_fast.canvas.scene import Scene
from nca_fast.canvas.turning import Turning
from nca_fast.devices import moved
from nca_fast.frames import slowed
from nca_fast.nca import NCA


@dataclass(frozen=True)
class Cost:
    """What a colony needs of a machine.

    Args:
        reach: Rows of neighbours that a step depends on.
        cell_bytes: Memory that a cell of a strip takes while it is computed.
        operations: Of one step of a cell.
    """

    reach: int
    cell_bytes: int
    operations: float


class Colony:
    """The automata of a canvas. A step of several is a blend of the steps that each would take,

        x' = sum over i of share_i * step_i(x)

    so that where one has all of a cell, the cell is its own, and soft borders of the map graft one onto another.

    Args:
        scene: For the first automaton, whose read-out and start the canvas has, size, seed, backend and precision.
        grafts: Further automata, of equal channels, padding, read-out and device. All use the same fire masks.
        map: Where each of several automata lives: [3, h, w] in [0, 1], see `maps.shares`; or a `Paint` whose codes are
            the shares of the automata.
        speed_map: How fast cells live: [3, h, w] in [0, 1]; the fire rate of the automaton times it. White is as the
            automaton was made, black stands still.
        angle_map, scale_map: As of `Turning`, which is made where these or the settings ask for it.
        window: Height and width of the part in the middle that is a canvas for now; None is all of it.

    Raises:
        ValueError: The automata do not go together; there is a map for one, or none for several.
    """

    def __init__(
        self,
        scene: Scene,
        grafts: Sequence[NCA] = (),
        *,
        map: Tensor | Paint | None = None,
        speed_map: Tensor | None = None,
        angle_map: Tensor | None = None,
        scale_map: Tensor | None = None,
        window: tuple[int, int] | None = None,
    ):
        first = scene.nca
        for nca in grafts:
            if nca.textures != first.textures:
                raise ValueError(
                    "automata of a canvas must know the same textures, because cells hold codes for all of them, but "
                    f"they know {list(first.textures)} and {list(nca.textures)}."
                )
            for name in ("channels", "padding"):
                a, b = getattr(first.rule, name), getattr(nca.rule, name)
                if a != b:
                    raise ValueError(f"{name} of all automata of a canvas must be equal, but got {a} and {b}.")
            if (nca.rgb_channel, nca.start == "cell") != (first.rgb_channel, first.start == "cell"):
                raise ValueError(
                    "automata of a canvas must show the same channels, but got "
                    f"rgb_channel={first.rgb_channel}, start={first.start!r} and "
                    f"rgb_channel={nca.rgb_channel}, start={nca.start!r}."
                )
        for nca in (first, *grafts):
            if nca.rule.alive_circular != (nca.rule.padding == "circular"):
                raise ValueError(
                    "canvases are cut into strips, which do not know where the edges of a torus are: alive_padding "
                    f"must be None, but got {nca.rule.alive_padding!r}. nca_fast.rollout runs such a rule."
                )
        self.events = scene.events
        if self.events is None and (map is not None) != bool(grafts):
            raise ValueError(
                f"a map must be given exactly when several automata share a canvas, but there "
                f"{'is one map' if map is not None else 'is no map'} for {1 + len(grafts)}."
            )
        self.ncas, self.scene = [first, *grafts], scene
        self.height, self.width = window or (scene.height, scene.width)
        self.paint = map if isinstance(map, Paint) else None
        self.map = None if map is None or self.paint else Map(map, scene.height, scene.width, window)
        self.speed = None if speed_map is None else Map(speed_map, scene.height, scene.width, window)
        self.turning, size = None, (scene.height, scene.width)
        if scene.config.turns:
            self.turning = Turning(scene.config, *size, window=window, angle_map=angle_map, scale_map=scale_map)
        self.turns = self.turning is not None or (self.events is not None and self.events.turns)
        if self.turns:
            for nca in self.ncas:
                arguments.check_turns(nca.rule)
        dt = scene.config.dt
        if dt is None:
            dt = 1.0 if self.turning is None else self.turning.stable_dt
        self._run = self._slowed(dt)

    def _slowed(self, dt):
        """Lists rule and weights of all automata, that do so much of their step."""
        run = [(nca.rule, nca.weights) for nca in self.ncas]
        return run if dt == 1 else [slowed(*pair, dt) for pair in run]

    @property
    def channels(self) -> int:
        """Counts the channels of a cell."""
        return self.ncas[0].rule.channels

    def cost(self) -> Cost:
        """Counts rows of halo, memory and work of a step."""
        rules = [nca.rule for nca in self.ncas]
        channels, several = rules[0].channels, len(rules) > 1
        size = 4 * channels * (3 if several else 2)
        size += several * (4 * len(rules) + 16)  # shares, and what `maps.add` computes of a channel
        size += 4 * self.events.count if self.events is not None and self.events.count > len(rules) else 0
        size += 16 if self.turns else 0  # frames, and a copy of theirs
        slows = self.speed is not None or (self.events is not None and self.events.slows)
        size += 32 if slows else 0  # rates, and thresholds of 8 bytes on their way
        sample = torch.empty(1, channels, 1, 1, device=self.scene.nca.device)
        uses = ("frames",) if self.turns else ()
        served = [backends.choose(self.scene.backend, rule, sample, self.scene.precision, uses)[0] for rule in rules]
        size += max(backends.bytes_per_cell(name, rule) for name, rule in zip(served, rules, strict=True))
        work = sum(2 * rule.fire_rate * sum(o * i for o, i, _ in rule.layers) for rule in rules)
        return Cost(max(rule.reach for rule in rules), size, work)

    def advance(self, x: Tensor, spare: Tensor, row: int, first_step: int, steps: int) -> tuple[Tensor, Tensor]:
        """Takes steps on some rows of the canvas. The outermost `reach` rows of a part lose their meaning in each step.

        Args:
            x: The rows; overwritten. [1, C, rows, width]
            spare: A buffer like x; overwritten.
            row: Number of the first of them. On a torus it may lie outside: rows repeat.
            first_step: Number of the first step, counted from the beginning of the canvas.
            steps: How many.

        Returns:
            The buffer that holds the result, and the other one.
        """
        if self.events is None:
            return self._advance(x, spare, row, first_step, steps)
        rows = (row + torch.arange(x.shape[2])) % self.height
        if first_step == 0:
            self.events.touch(x[0], rows, 0)
        for begin, end in self.events.stretches(first_step, first_step + steps):
            x, spare = self._advance(x, spare, row, begin, end - begin)
            self.events.touch(x[0], rows, end)
        return x, spare

    def _advance(self, x, spare, row, first_step, steps):
        """Takes steps between which nothing is done; arguments and result as of `advance`."""
        rows = (row + torch.arange(x.shape[2])) % self.height
        speed = None if self.speed is None else self.speed.rows(rows)
        turning, run = self.turning, self._run
        if self.events is not None:
            speed, turning = self.events.speeds(rows, first_step), self.events.turning(first_step)
            run = run if turning is None else self._slowed(turning.stable_dt)
        speed = None if speed is None else moved(speed, x.device)
        where = {"origin": (row % self.height, 0), "canvas_height": self.height}
        how = {name: getattr(self.scene, name) for name in ("seed", "backend", "precision")} | where
        if turning is not None:
            how["frame"] = moved(turning.rows(row, x.shape[2]), x.device)

        def take(number, x, spare, step, steps):
            rule, weights = run[number]
            rate = None if speed is None else (speed * rule.fire_rate).clamp(max=1)
            return ops.advance(x, spare, weights, rule, steps, first_step=step, fire_rate=rate, **how)

        present = self._present(rows, x.device, first_step)
        if len(present) == 1:
            return take(present[0][0], x, spare, first_step, steps)
        total = torch.empty_like(x)
        for step in range(first_step, first_step + steps):
            total.zero_()
            for number, share in present:
                result, _ = take(number, x, spare, step, 1)  # leaves x as it is
                add(result, share, total)
            x, total = total, x
        return x, spare

    def _present(self, rows, device, step):
        """Finds (number of an automaton, its share of every cell) for those that have any in a step."""
        if len(self.ncas) == 1:
            return [(0, None)]
        if self.events is not None:
            parts = self.events.shares(rows, step)
        elif self.paint is not None:
            top, left = (self.scene.height - self.height) // 2, (self.scene.width - self.width) // 2
            parts = self.paint.rows(top + rows, left, self.width)
        else:
            parts = shares(self.map.rows(rows), len(self.ncas))
        return [(number, moved(part, device)) for number, part in enumerate(parts) if (part > 0).any()]
