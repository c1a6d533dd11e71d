"""How long a training will take, by its first iterations."""

from collections.abc import Callable, Sequence

FIRST = 10  # iterations by whose pace it is told; the very first one compiles and warms up, and does not count


def cost(readings: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Splits what iterations took into a fixed part and one for each step of their rollouts, by least squares.

    Args:
        readings: (steps, seconds) of some iterations.

    Returns:
        Seconds of the fixed part, and of a step, neither below 0. Where all have the same number of steps, all of it is
        the steps'.
    """
    count = len(readings)
    steps, seconds = (sum(values) / count for values in zip(*readings, strict=True))
    spread = sum((s - steps) ** 2 for s, _ in readings)
    slope = sum((s - steps) * (t - seconds) for s, t in readings) / spread if spread else seconds / steps
    slope = min(max(0.0, slope), seconds / steps)
    return seconds - slope * steps, slope


def expected(
    readings: Sequence[tuple[int, float]],
    steps_at: Callable[[int], tuple[int, int]],
    iterations: int,
    limit: float | None = None,
    slower: float = 1.0,
) -> tuple[int, float]:
    """Says how many iterations a whole run will do, in how many seconds.

    Args:
        readings: As in `cost`.
        steps_at: Planned iteration -> the shortest and the longest rollout.
        iterations: Of the plan.
        limit: Seconds that the plan shall take, however many iterations that is; None: as many as are planned.
        slower: So many times what the first ones take is what the others will.
    """
    fixed, step = cost(readings)
    stretches = min(iterations, 100)  # of the plan, each at one pace
    paces = [slower * (fixed + step * sum(steps_at(i * iterations // stretches)) / 2) for i in range(stretches)]
    if limit is None:
        return iterations, iterations * sum(paces) / stretches
    return max(1, round(sum(limit / stretches / max(pace, 1e-9) for pace in paces))), limit


def time_in_words(seconds: float) -> str:
    """Writes a time for people: "52 s", "13 minutes", "2.5 hours"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
