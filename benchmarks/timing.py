"""Times single queries: several callables in turn, so that a slow minute of the machine hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BLOCK, WARM_UP = 50, 10


@dataclass(frozen=True)
class Timing:
    """Times of single queries in microseconds, sorted."""

    micros: Sequence[float]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.micros)

    @property
    def p99(self) -> float:
        """The 99th percentile."""
        return self.micros[int(len(self.micros) * 0.99)]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.micros)


def time_in_turn(calls: Sequence[Callable[[str], object]], texts: Sequence[str]) -> list[Timing]:
    """Return the times of each call for all texts.

    The calls take turns of BLOCK texts. A turn begins with a warm-up, so that a call is measured with its own data in
    the processor's caches, as in a service.
    """
    times: list[list[float]] = [[] for _ in calls]
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        for call, taken in zip(calls, times, strict=True):
            for text in block[:WARM_UP]:
                call(text)
            for text in block:
                began = time.perf_counter()
                call(text)
                taken.append((time.perf_counter() - began) * 1e6)
    return [Timing(sorted(taken)) for taken in times]


def measure_median_millis(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)
