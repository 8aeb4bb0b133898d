"""`runfold verify`: rebuilds the views beside the live ones and compares them row for row."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from events.errors import RunfoldError, TemporarilyUnavailable
from events.event import Partition
from events.log import Log, LogError
from events.places import SettingError
from projections.comparison import Compared, compare
from projections.database import Views
from projections.folding import read_checkpoint
from projections.lake import Lake
from projections.lake_locks import generation_lock
from projections.segments import generation_of, known_paths
from workers.build_sealer import BuildSealer
from workers.logs import configure_logs
from workers.maintenance import (
    COLLECT_EVERY,
    LOG_LEVEL,
    MaintenanceError,
    existing_stores,
    fold_up_to,
    folded_to,
    maintenance_lock,
)
from workers.options import settings_from, storage_options
from workers.progress import Progress
from workers.rebuild import build
from workers.sealer import SealerSettings

SEALING = SealerSettings(merge_segments=1 << 60)
"""Files that are read once and deleted are not worth merging."""
Echo = Callable[[str], None]


def run_verify(log: Log, live: Views, lake: Lake, *, echo: Echo = click.echo) -> bool:
    """Whether the live views are what the log gives; tells what differs.

    Works beside a running server: compared is the live views' state of one instant. Raises
    MaintenanceError where there is nothing to compare.
    """
    with maintenance_lock(live), contextlib.ExitStack() as scratch:
        try:
            live.require_current()
        except TemporarilyUnavailable as error:
            raise MaintenanceError(f"there are no views to verify: {error.message}") from error
        made = scratch.enter_context(live.making())
        sealer = BuildSealer(made, log, lake, SEALING)
        try:
            for _ in range(2):
                # The second time for what came during the first, so that little is left to fold
                # while the snapshot below is held.
                build(log, made, sealer, folded_to(log, live))
            with _files_held(live, lake), live.read() as connection:
                positions = {
                    one: read_checkpoint(connection, one).position for one in log.partitions()
                }
                fold_up_to(log, made, positions, "folding the last events")
                with made.read() as other:
                    results = compare(connection, other, lake, _points_progress())
            _tell(results, positions, echo)
        finally:
            _remove_files(made, lake)
            sealer.close()
    return not any(result.different for result in results)


@contextlib.contextmanager
def _files_held(live: Views, lake: Lake) -> Iterator[None]:
    """Keeps the sealer from deleting files that the snapshot will name: it waits meanwhile."""
    with live.read() as connection:
        generation = generation_of(connection)
    with contextlib.ExitStack() as stack:
        if generation is not None:
            stack.enter_context(generation_lock(live, lake, generation))
        yield


def _points_progress() -> Callable[[int, int], None]:
    told: list[Progress] = []

    def on_points(done: int, total: int) -> None:
        if not told:
            told.append(Progress("comparing", total, "points"))
        told[0].add(done - told[0].done)
        if done >= total:
            told[0].finish()

    return on_points


def _tell(results: Sequence[Compared], positions: dict[Partition, int], echo: Echo) -> None:
    for result in results:
        echo(str(result))
        for example in result.examples:
            echo(f"    {example}")
    at = ", ".join(f"{partition} {position:,}" for partition, position in positions.items())
    if any(result.different for result in results):
        echo(f"The live views DIFFER from what the log gives at {at}. `runfold rebuild` mends it.")
    else:
        echo(f"The live views are what the log gives at {at}.")


def _remove_files(made: Views, lake: Lake) -> None:
    with made.read() as connection:
        paths = known_paths(connection)
    for path in paths:
        lake.remove(path)


@click.command("verify")
@storage_options
def verify_command(**options: Any) -> None:
    """Rebuild the views beside the live ones and compare them row for row.

    Works while the server runs, and without it. Ends with 1 where anything differs.
    """
    configure_logs(LOG_LEVEL, "verify")
    gc.set_threshold(COLLECT_EVERY, 20, 50)
    try:
        with existing_stores(settings_from(options)) as stores:
            equal = run_verify(stores.log, stores.views, stores.lake)
    except (RunfoldError, MaintenanceError, LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error
    if not equal:
        sys.exit(1)
