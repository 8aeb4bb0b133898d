"""`runfold rebuild`: makes the views, or one of them, again from the log.

They are made in a file beside the live ones, which answer until the new take their place.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import click

from events.errors import RunfoldError, TemporarilyUnavailable
from events.event import Partition
from events.log import Log, LogError
from events.places import SettingError
from projections.database import PROJECTOR, AlreadyRunning, Views
from projections.lake import Lake
from projections.replacement import NAMES, NotReplaced, lanes_of, replace_view
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
    publish,
)
from workers.options import settings_from, storage_options
from workers.sealer import SealerSettings

SEALING = SealerSettings(
    batch_points=15_500_000, batch_blocks=40_000, batch_names=100_000, merge_segments=16
)
"""Everything is sealed at once, in segments that need no merge: with so many points one is full."""
Echo = Callable[[str], None]


def run_rebuild(
    log: Log, live: Views, lake: Lake, view: str | None = None, *, echo: Echo = click.echo
) -> None:
    """Rebuilds all views, or the one of this name, beside a running server or without one.

    Raises MaintenanceError where an event can't be folded; the live views are then as they were.
    """
    with maintenance_lock(live), live.making() as made:
        # The lock of its files is held until they belong to the live views.
        sealer = BuildSealer(made, log, lake, SEALING)
        try:
            if view is None:
                _rebuild_all(log, made, live, sealer)
            else:
                _rebuild_one(log, made, live, sealer, view)
        finally:
            sealer.close()
    echo(f"Rebuilt {view or 'all views'}.")


def build(log: Log, made: Views, sealer: BuildSealer, targets: Mapping[Partition, int]) -> None:
    """Folds the log into views beside the live ones, and has their points sealed along the way, so
    that the file stays small."""
    fold_up_to(log, made, targets, "rebuilding", sealer.seal_batches)
    sealer.seal_all()


def _is_there(live: Views) -> bool:
    try:
        live.require_current()
    except TemporarilyUnavailable:
        return False
    return True


def _rebuild_all(log: Log, made: Views, live: Views, sealer: BuildSealer) -> None:
    build(log, made, sealer, log.heads())
    made.add_search_indexes()
    if _is_there(live):
        publish(log, made, live)
        return
    try:
        with live.lock(PROJECTOR):
            live.put_in_place(made)
            live.remove_replaced()
    except AlreadyRunning as error:
        raise MaintenanceError(
            f"the server is making the views itself at this moment; nothing was replaced ({error})"
        ) from error


def _rebuild_one(log: Log, made: Views, live: Views, sealer: BuildSealer, view: str) -> None:
    if not _is_there(live):
        raise MaintenanceError(
            "there are no views of this version yet, of which one could be rebuilt: "
            "run `runfold rebuild`"
        )
    # No further than the live ones: both must stand at the same event in the end.
    for _ in range(3):
        reached = folded_to(log, live)
        lanes = lanes_of(view)
        build(log, made, sealer, {one: reached[one] for one in reached if one.lane in lanes})
    replace_view(log, made, live, view)


@click.command("rebuild")
@click.argument("view", required=False, type=click.Choice(NAMES))
@storage_options
def rebuild_command(view: str | None, **options: Any) -> None:
    """Make all views, or VIEW alone, again from the log.

    Works while the server runs, which answers from the old views until the new take their place,
    and without it.
    """
    configure_logs(LOG_LEVEL, "rebuild")
    gc.set_threshold(COLLECT_EVERY, 20, 50)
    try:
        with existing_stores(settings_from(options)) as stores:
            run_rebuild(stores.log, stores.views, stores.lake, view)
    except (RunfoldError, MaintenanceError, NotReplaced, LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error
