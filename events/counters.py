"""What a process counts of its own work, and the text in which Prometheus reads it.

Counting is on the way of every request, so it is plain numbers that nobody locks: each is changed
by one thread. Names and labels are put to them when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds for what takes from a fraction of a millisecond to seconds."""
LONG_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds for work in the background."""
SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0)
"""Bounds for how many things went together."""

Labels = Mapping[str, str]


class Histogram:
    """How many values fell between bounds, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the greatest value of each bucket; a last one has what is greater."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Exposition:
    """Prometheus's text format, family by family."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def counter(self, name: str, help: str, *samples: tuple[Labels, float]) -> None:
        """Numbers that only grow while a process lives; the name ends with `_total`."""
        self._family(name, help, "counter", samples)

    def gauge(self, name: str, help: str, *samples: tuple[Labels, float]) -> None:
        """Numbers that go up and down."""
        self._family(name, help, "gauge", samples)

    def histogram(self, name: str, help: str, samples: Iterable[tuple[Labels, Histogram]]) -> None:
        """Histograms of one name, each with its labels."""
        self._head(name, help, "histogram")
        for labels, found in samples:
            count = 0
            # Another thread may be counting: what is read once fits together.
            for bound, more in zip((*found.bounds, "+Inf"), tuple(found.counts), strict=True):
                count += more
                self._sample(f"{name}_bucket", {**labels, "le": str(bound)}, count)
            self._sample(f"{name}_sum", labels, found.total)
            self._sample(f"{name}_count", labels, count)

    def text(self) -> bytes:
        """All families."""
        return ("\n".join(self._lines) + "\n").encode()

    def _family(
        self,
        name: str,
        help: str,
        kind: Literal["counter", "gauge"],
        samples: Iterable[tuple[Labels, float]],
    ) -> None:
        self._head(name, help, kind)
        for labels, value in samples:
            self._sample(name, labels, value)

    def _head(self, name: str, help: str, kind: str) -> None:
        self._lines.append(f"# HELP {name} {_escaped(help)}")
        self._lines.append(f"# TYPE {name} {kind}")

    def _sample(self, name: str, labels: Labels, value: float) -> None:
        given = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        shown = str(int(value)) if float(value).is_integer() else repr(float(value))
        self._lines.append(f"{name}{{{given}}} {shown}" if given else f"{name} {shown}")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
