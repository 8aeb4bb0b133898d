"""`runfold gc`: purges what was deleted, so that nothing of it is left in any file.

Each purge is an event. Its verdict decides: who restored a run before its purge was folded keeps
it. Then artifacts, segments, views and at last the log are cleaned of the accepted ones. What the
log still has of a purged subject is the mark of work that is not done, so a gc that was killed is
finished by the next.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from events.artifact_uris import ArtifactRoots
from events.blobs import BlobStore
from events.errors import InvalidParameterValue, RunfoldError
from events.event import JOURNAL, Event, EventType, NewEvent
from events.experiments import EXPERIMENT_CREATED, EXPERIMENT_PURGED, ExperimentPurged
from events.log import Log, LogError
from events.logged_models import LOGGED_MODEL_CREATED, LOGGED_MODEL_PURGED, LoggedModelPurged
from events.places import SettingError
from events.runs import RUN_CREATED, RUN_PURGED, RunPurged
from projections.comparison import SPILL
from projections.database import Views
from projections.lake import Lake
from projections.lake_locks import generation_lock
from projections.purges import Choice, Chosen, choose, purged_subjects, refusal_at
from projections.scrubbing import kept_data
from projections.segments import generation_of
from workers.exporter import Exporter, ExporterSettings
from workers.logs import configure_logs
from workers.maintenance import (
    LOG_LEVEL,
    MaintenanceError,
    existing_stores,
    fold_to_head,
    maintenance_lock,
    publish,
)
from workers.options import settings_from, storage_options
from workers.progress import Progress
from workers.sealer import Sealer, SealerSettings

APPEND_EVENTS = 500
SCRUB_SUBJECTS = 500
READ_EVENTS = 2_000
NEVER = 1 << 60
Echo = Callable[[str], None]

_CREATED: dict[str, tuple[str, EventType[Any], str]] = {
    RUN_CREATED.name: ("run", RUN_CREATED, "artifact_uri"),
    LOGGED_MODEL_CREATED.name: ("logged model", LOGGED_MODEL_CREATED, "artifact_location"),
    EXPERIMENT_CREATED.name: ("experiment", EXPERIMENT_CREATED, "artifact_location"),
}
"""The events that say where artifacts are: the noun, and the field that says it."""
_NAMES = {"run": "Run", "logged model": "Logged model", "experiment": "Experiment"}


@dataclass
class Report:
    """What one gc did, or in a dry run would do."""

    purged: list[tuple[str, str]] = field(default_factory=list)
    """(noun, id) of what was purged."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(id, why) of what was in use again when its purge was folded."""
    finished: int = 0
    """Subjects that an earlier gc had purged but not cleaned up."""
    artifacts: int = 0
    """Files of artifacts deleted."""
    scrubbed: int = 0
    """Events whose data was emptied."""
    unfinished: list[str] = field(default_factory=list)
    """Subjects that are purged, but not scrubbed: their artifacts could not be deleted."""


@dataclass(frozen=True)
class Gc:
    """Everything that a gc works on."""

    log: Log
    views: Views
    artifacts: ArtifactRoots
    lake: Lake
    echo: Echo = click.echo


def run_gc(stores: Gc, choice: Choice, *, dry_run: bool = False) -> Report:
    """Purges what is chosen, and finishes what an earlier gc left.

    Works beside a running server and without one. Raises RunfoldError for ids that can't be
    purged, MaintenanceError and LogError where it can't go on; it can always be run again.
    """
    with maintenance_lock(stores.views):
        fold_to_head(stores.log, stores.views)
        with stores.views.read() as connection:
            chosen = choose(connection, choice, _now_ms())
        if dry_run:
            return _tell(stores, chosen)
        report = Report()
        for line in chosen.kept:
            stores.echo(line)
        _purge(stores, chosen, report)
        _clean(stores, report)
        for noun, subject in report.purged:
            stores.echo(f"{_NAMES[noun]} with ID {subject} has been permanently deleted.")
        for subject, why in report.refused:
            stores.echo(f"Kept {subject}: {why}")
    return report


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _tell(stores: Gc, chosen: Chosen) -> Report:
    for line in chosen.kept:
        stores.echo(line)
    for noun, subject in chosen.subjects():
        stores.echo(f"{_NAMES[noun]} with ID {subject} would be permanently deleted.")
    left = _due(stores) if stores.log.can_scrub else []
    if left:
        stores.echo(f"{len(left)} purged by an earlier gc would be cleaned up.")
    return Report(purged=list(chosen.subjects()), finished=len(left))


def _event(noun: str, subject: str, time_ms: int) -> NewEvent:
    kinds: dict[str, tuple[EventType[Any], Any]] = {
        "run": (RUN_PURGED, RunPurged()),
        "logged model": (LOGGED_MODEL_PURGED, LoggedModelPurged()),
        "experiment": (EXPERIMENT_PURGED, ExperimentPurged()),
    }
    event_type, payload = kinds[noun]
    return event_type.new(subject, payload, time=time_ms, origin="runfold gc")


def _purge(stores: Gc, chosen: Chosen, report: Report) -> None:
    """Appends the purges, experiments after what is in them, and waits for their verdicts."""
    subjects = list(chosen.subjects())
    positions: dict[str, int] = {}
    for start in range(0, len(subjects), APPEND_EVENTS):
        chunk = subjects[start : start + APPEND_EVENTS]
        now = _now_ms()
        appended = stores.log.append([_event(noun, subject, now) for noun, subject in chunk])
        positions.update(zip((subject for _, subject in chunk), appended, strict=True))
    if subjects:
        fold_to_head(stores.log, stores.views, "purging")
    with stores.views.read() as connection:
        gone = purged_subjects(connection)
        for noun, subject in subjects:
            if subject in gone:
                report.purged.append((noun, subject))
            else:
                why = refusal_at(connection, positions[subject])
                report.refused.append((subject, why or "it was not purged"))
    report.finished = len(gone) - len(report.purged)


def _due(stores: Gc) -> list[str]:
    """Purged subjects of which something may be left. Where the log can't be scrubbed, and so can't
    tell whose cleaning was done, these are all that ever were purged."""
    with stores.views.read() as connection:
        gone = purged_subjects(connection)
    return sorted(stores.log.unscrubbed(gone) if stores.log.can_scrub else gone)


def _clean(stores: Gc, report: Report) -> None:
    """Leaves no byte of what was purged. The log comes last: what it has tells what is due."""
    due = _due(stores)
    if due:
        _delete_artifacts(stores, due, report)
        _clean_segments(stores)
        exporting = ExporterSettings(retired_s=0.0)
        Exporter(stores.views, stores.log, stores.lake, exporting).remove_purged()
        _clean_views(stores)
    if not stores.log.can_scrub:
        report.finished = 0
        return
    report.finished = len(set(due) - {subject for _, subject in report.purged})
    due = [subject for subject in due if subject not in report.unfinished]
    progress = Progress("scrubbing the log", len(due), "subjects")
    # Also where nothing is due: a gc that was killed may have left old pages in the log's WAL.
    for start in range(0, max(len(due), 1), SCRUB_SUBJECTS):
        chunk = due[start : start + SCRUB_SUBJECTS]
        report.scrubbed += stores.log.scrub(chunk, kept_data)
        progress.add(len(chunk))
    progress.finish()


def _delete_artifacts(stores: Gc, subjects: Sequence[str], report: Report) -> None:
    """Deletes the artifacts of these subjects."""
    progress = Progress("deleting artifacts", len(subjects), "subjects")
    experiments: list[tuple[str, str]] = []
    locations = {} if stores.log.can_scrub else _all_locations(stores.log, set(subjects))
    for subject in subjects:
        noun, uri = locations.get(subject) or _location(stores.log, subject)
        if noun == "experiment":
            experiments.append((subject, uri))
        elif noun:
            _delete_of(stores, subject, uri, report, only_empty=False)
        progress.add(1)
    # An experiment's folder is empty once the artifacts of its runs are gone.
    for subject, uri in experiments:
        _delete_of(stores, subject, uri, report, only_empty=True)
    progress.finish()


def _created_at(event: Event) -> tuple[str, str]:
    noun, event_type, location = _CREATED[event.type]
    return noun, str(getattr(event_type.decode(event.data), location))


def _all_locations(log: Log, subjects: Collection[str]) -> dict[str, tuple[str, str]]:
    """The same of many subjects, where the log finds one no sooner than all: from its start on."""
    found: dict[str, tuple[str, str]] = {}
    after, head = 0, log.head(JOURNAL)
    while after < head:
        events = log.read(JOURNAL, after, READ_EVENTS)
        for event in events:
            if event.subject in subjects and event.type in _CREATED and not event.scrubbed:
                found.setdefault(event.subject, _created_at(event))
        after = events[-1].position
    return {subject: found.get(subject, ("", "")) for subject in subjects}


def _location(log: Log, subject: str) -> tuple[str, str]:
    """What the subject is and where its artifacts are; empty where the log does not tell."""
    for event in log.about("journal", subject):
        if event.type in _CREATED and not event.scrubbed:
            return _created_at(event)
    return "", ""


def _delete_of(stores: Gc, subject: str, uri: str, report: Report, *, only_empty: bool) -> None:
    """Deletes the folder named after the subject, below which its artifacts are.

    Others may keep theirs in the same place where an experiment was given a location of its own,
    so nothing is deleted but what has the subject's id in its path, and of an experiment's folder
    nothing but an empty one.
    """
    parts = uri.rstrip("/").split("/")
    if subject not in parts and only_empty:
        return
    try:
        if subject not in parts:
            raise InvalidParameterValue("its id is not in the location's path.")
        own = "/".join(parts[: len(parts) - parts[::-1].index(subject)])
        store, path = stores.artifacts.locate(own)
        if not path:
            # The location is a folder of its own: it is named as one in the folder above.
            store, path = stores.artifacts.locate(own.rpartition("/")[0], subject)
        if not only_empty or _is_empty(store, path):
            report.artifacts += store.delete_tree(path)
    except InvalidParameterValue as error:
        stores.echo(
            f"The artifacts of {subject} at {uri} were not deleted: {error} "
            "Delete them yourself where they are."
        )
    except (OSError, RunfoldError) as error:
        # Where they are is in the log alone, so it stays there until they are gone.
        report.unfinished.append(subject)
        stores.echo(f"The artifacts of {subject} at {uri} could not be deleted: {error}.")


def _is_empty(store: BlobStore, folder: str) -> bool:
    """Whether there is no file in a folder, however deep."""
    return all(
        entry.is_folder and _is_empty(store, f"{folder}/{entry.name}")
        for entry in store.list(folder)
    )


def _clean_segments(stores: Gc) -> None:
    """Has every segment rewritten that holds purged runs, and deletes the old files at once."""
    # A verify that was killed has left it; one that runs would hold the maintenance lock.
    shutil.rmtree(stores.lake.folder / SPILL, ignore_errors=True)
    sealer = Sealer(
        stores.views,
        stores.lake,
        SealerSettings(
            seal_points=NEVER,
            seal_blocks=NEVER,
            seal_age_s=math.inf,
            merge_segments=NEVER,
            retired_s=0.0,
        ),
    )
    try:
        while sealer.round():
            continue
    finally:
        sealer.close()


def _clean_views(stores: Gc) -> None:
    """Puts a fresh copy in the views' place: pages of the old file keep bytes of rows that moved
    between pages before they were deleted, which SQLite's secure_delete does not reach."""
    with stores.views.read() as connection:
        generation = generation_of(connection)
    with contextlib.ExitStack() as held:
        if generation is not None:
            # The copy has the same segments: nothing is sealed or merged until it is the live one.
            held.enter_context(generation_lock(stores.views, stores.lake, generation))
        publish(stores.log, held.enter_context(stores.views.copied()), stores.views)


def parse_age(text: str) -> int:
    """Milliseconds of an age such as "1d2h3m4s". Raises InvalidParameterValue."""
    number = r"(\d+(?:\.\d+)?|\.\d+)"
    pattern = rf"(?:{number}d)?(?:{number}h)?(?:{number}m)?(?:{number}s)?"
    match = re.fullmatch(pattern, text.strip())
    if match is None or not any(match.groups()):
        raise InvalidParameterValue(
            f"'{text}' is no age. Give days, hours, minutes and seconds, such as '8h', "
            "'2d8h5m20s' or '2m4s'."
        )
    sizes_ms = (86_400_000, 3_600_000, 60_000, 1_000)
    parts = zip(match.groups(), sizes_ms, strict=True)
    return int(sum(float(count) * size for count, size in parts if count))


def _ids(text: str | None) -> Sequence[str] | None:
    if not text:
        return None
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


@click.command("gc")
@click.option(
    "--older-than",
    metavar="AGE",
    help="Only what was deleted longer ago than this, such as 30d or 1d2h3m4s.",
)
@click.option("--run-ids", metavar="IDS", help="Comma-separated ids of deleted runs.")
@click.option(
    "--experiment-ids",
    metavar="IDS",
    help="Comma-separated ids of deleted experiments, which go with all that is in them.",
)
@click.option(
    "--logged-model-ids", metavar="IDS", help="Comma-separated ids of deleted logged models."
)
@click.option("--dry-run", is_flag=True, help="Tell what would be deleted, and delete nothing.")
@storage_options
def gc_command(
    older_than: str | None,
    run_ids: str | None,
    experiment_ids: str | None,
    logged_model_ids: str | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Delete for good what is in the deleted stage: rows, metric points, artifacts, and what the
    log says of it.

    Without ids: every deleted run, logged model and experiment. With ids: those and nothing else.
    Works while the server runs, and without it. What is gone can't be brought back.
    """
    configure_logs(LOG_LEVEL, "gc")
    try:
        choice = Choice(
            run_ids=_ids(run_ids),
            experiment_ids=_ids(experiment_ids),
            logged_model_ids=_ids(logged_model_ids),
            older_than=older_than,
            older_than_ms=parse_age(older_than) if older_than else 0,
        )
        with existing_stores(settings_from(options)) as stores:
            gc = Gc(stores.log, stores.views, stores.artifacts, stores.lake)
            report = run_gc(gc, choice, dry_run=dry_run)
    except (RunfoldError, MaintenanceError, LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error
    if dry_run and not report.purged and not report.finished:
        click.echo("Nothing would be deleted: nothing that was asked for is in the deleted stage.")
    if not dry_run:
        click.echo(
            f"{len(report.purged)} purged, {report.artifacts} artifact files deleted, "
            f"{report.scrubbed} events scrubbed."
        )
    if report.unfinished:
        raise click.ClickException(
            f"{len(report.unfinished)} purged but not finished, see above: run gc again once the "
            "artifacts can be deleted"
        )
