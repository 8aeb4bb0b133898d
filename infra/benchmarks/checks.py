"""Checks that a server holds what it was sent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from infra.benchmarks.bodies import Stream, latest_of
from infra.benchmarks.client import Client
from infra.benchmarks.load import Outcome

SHOWN_MAX = 3


def wrong_statuses(outcome: Outcome) -> Iterator[str]:
    """Says which answers were not 200."""
    if outcome.refused:
        yield (
            f"{sum(outcome.refused.values())} of {sum(outcome.statuses.values())} answers were not "
            f"200: {outcome.refused}, such as {outcome.last_body[:200]!r}"
        )


def by_run(streams: Iterable[Stream]) -> dict[str, list[Stream]]:
    """The streams of each run."""
    runs: dict[str, list[Stream]] = {}
    for stream in streams:
        runs.setdefault(stream.run_id, []).append(stream)
    return runs


def wrong_points(client: Client, streams: Sequence[Stream]) -> Iterator[str]:
    """Counts the points back and compares the latest values: one key of each run in full (each
    request has all keys), and every latest value."""
    for place, (run_id, of_run) in enumerate(by_run(streams).items()):
        key = of_run[0].keys[place % len(of_run[0].keys)]
        wanted = sum(stream.points_a_key for stream in of_run)
        history = client.history(run_id, key)
        distinct = {(point.get("step", 0), point["timestamp"]) for point in history}
        if len(history) != wanted or len(distinct) != wanted:
            yield (
                f"run {place}, {key}: {len(history):,} points read back ({len(distinct):,} "
                f"distinct), {wanted:,} sent"
            )
        yield from wrong_latest(client.latest(run_id), latest_of(of_run))


def wrong_latest(
    found: Mapping[str, tuple[int, float]], wanted: Mapping[str, tuple[int, float]]
) -> Iterator[str]:
    """Compares the latest points of a run."""
    wrong = [key for key in wanted if not _same(found.get(key), wanted[key])]
    if set(found) != set(wanted) or wrong:
        shown = [f"{key}: {found.get(key)} for {wanted[key]}" for key in wrong[:SHOWN_MAX]]
        yield f"{len(wrong)} of {len(wanted)} latest values are wrong: {'; '.join(shown)}"


def _same(found: tuple[int, float] | None, wanted: tuple[int, float]) -> bool:
    return (
        found is not None
        and int(found[0]) == wanted[0]
        and math.isclose(found[1], wanted[1], rel_tol=1e-12)
    )
