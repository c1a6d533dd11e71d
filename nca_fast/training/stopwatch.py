"""How much time passes, by whatever clock."""

import time


class Stopwatch:
    """Counts seconds between one look and the next. A clock that stands still or goes back counts none."""

    def __init__(self):
        self._seen = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last look, or since the beginning."""
        before, self._seen = self._seen, time.perf_counter()
        return max(0.0, self._seen - before)
