"""`runfold events`: prints what the log holds, so that a person or a program can read it."""

from __future__ import annotations

import contextlib
import heapq
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from events.catalog import EVENT_TYPES
from events.codec import Block
from events.errors import TemporarilyUnavailable
from events.event import GAP, JOURNAL, LANES, Event, Lane, Partition
from events.log import Log, LogError
from events.logged_models import LOGGED_MODEL_CREATED
from events.metrics import number_text
from events.places import SettingError
from events.runs import RUN_CREATED
from projections.database import Views
from projections.folding import rejected_between
from workers.maintenance import MaintenanceError, existing_stores
from workers.options import settings_from, storage_options

PAGE = 200
POLL_S = 0.2
VERDICT_WAIT_S = 1.0
"""How long an event that has just come is held back for its verdict."""
SHOWN_POINTS = 3
"""So many points of a series are shown from its start; and its last."""
SHOWN_CHARACTERS = 400

Write = Callable[[str], None]
Verdicts = dict[int, tuple[str, str]]
"""(error code, message) by position, of those that were rejected."""

_TYPES = {(event_type.name, event_type.version): event_type for event_type in EVENT_TYPES}
_IN_EXPERIMENTS = (RUN_CREATED.name, LOGGED_MODEL_CREATED.name)


@dataclass
class Selection:
    """Which events are wanted."""

    lanes: Sequence[Lane] = LANES
    after: int = 0
    subject: str | None = None
    """The run or model that they are about; None: any."""
    experiment_id: str | None = None
    """The experiment that they are about, or about runs and models of."""
    _members: set[str] = field(default_factory=set)

    def wants(self, event: Event) -> bool:
        """Whether the event is wanted; told of the journal's events in order, it learns which
        runs are the experiment's."""
        if event.type == GAP:
            return False
        if self.experiment_id is None:
            return self.subject is None or event.subject == self.subject
        if event.type in _IN_EXPERIMENTS and self._is_within(event):
            self._members.add(event.subject)
        return event.subject == self.experiment_id or event.subject in self._members

    def _is_within(self, created: Event) -> bool:
        # A scrubbed creation still says which experiment it was in.
        within = json.loads(created.data).get("experiment_id")
        return bool(within == self.experiment_id)


@dataclass(frozen=True)
class Printer:
    """Writes events in a format, with their verdicts where the views know them."""

    views: Views
    write: Write
    as_json: bool = False
    full: bool = False

    def print(self, events: Sequence[Event], wait_s: float = 0.0) -> None:
        """Writes some events."""
        folded, verdicts = self._verdicts(events, wait_s)
        for event in events:
            verdict = None
            if event.lane == "journal" and event.position <= folded:
                verdict = verdicts.get(event.position, ("", ""))
            self.write(self._json(event, verdict) if self.as_json else self._text(event, verdict))

    def _verdicts(self, events: Sequence[Event], wait_s: float) -> tuple[int, Verdicts]:
        """How far the journal is folded, and which of these events were rejected."""
        positions = [event.position for event in events if event.lane == "journal"]
        if not positions:
            return 0, {}
        deadline = time.monotonic() + wait_s
        with contextlib.suppress(TemporarilyUnavailable):
            self.views.require_current()
            while (folded := self.views.checkpoints()[JOURNAL].position) < positions[-1]:
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.02)
            with self.views.read() as connection:
                return folded, rejected_between(connection, min(positions), max(positions))
        return 0, {}

    def _json(self, event: Event, verdict: tuple[str, str] | None) -> str:
        shown: dict[str, Any] = {
            "lane": event.lane,
            "partition": event.partition,
            "position": event.position,
            "time": event.time,
            "type": event.type,
            "version": event.version,
            "subject": event.subject,
            "actor": event.actor,
            "origin": event.origin,
            "scrubbed": event.scrubbed,
        }
        if verdict is not None:
            shown["verdict"] = "rejected" if verdict[0] else "accepted"
            if verdict[0]:
                shown["error_code"], shown["message"] = verdict
        shown["data"] = data_of(event, full=self.full)
        return json.dumps(shown, ensure_ascii=False)

    def _text(self, event: Event, verdict: tuple[str, str] | None) -> str:
        when = datetime.fromtimestamp(event.time / 1000, UTC)
        parts = [
            f"{Partition(event.lane, event.partition)} {event.position}",
            f"{when:%Y-%m-%d %H:%M:%S}.{event.time % 1000:03d}Z",
            event.type,
            event.subject,
        ]
        parts += [f"by {event.actor}"] if event.actor else []
        parts += [f"from {event.origin}"] if event.origin else []
        lines = ["  ".join(map(printable, parts))]
        if event.scrubbed:
            lines.append("    (its data was scrubbed by gc)")
        elif event.lane == "points":
            lines += [f"    {printable(line)}" for line in self._series(event)]
        else:
            text = json.dumps(data_of(event, full=True), ensure_ascii=False)
            if len(text) > SHOWN_CHARACTERS and not self.full:
                text = f"{text[:SHOWN_CHARACTERS]}… ({len(event.data):,} bytes; --full shows all)"
            lines.append(f"    {printable(text)}")
        if verdict is not None and verdict[0]:
            lines.append(f"    rejected: {verdict[0]}: {printable(verdict[1])}")
        return "\n".join(lines)

    def _series(self, event: Event) -> Iterator[str]:
        data = data_of(event, full=self.full)
        if not isinstance(data, dict):
            yield str(data)
            return
        for series in data["series"]:
            about = [series["key"]]
            about += [f"{name} {series[name]}" for name in _ABOUT if series.get(name)]
            points = [f"{p['value']} at step {p['step']}" for p in series["points"]]
            if series["count"] > len(points):
                points.insert(-1, f"… {series['count'] - len(points):,} more …")
            yield f"{', '.join(about)}: {', '.join(points)}"


_ABOUT = ("model_id", "dataset_name", "dataset_digest")


def printable(text: str) -> str:
    """Text that can't command a terminal: what clients sent may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def data_of(event: Event, *, full: bool) -> Any:
    """The event's data as JSON can hold it; of many points the first few and the last of each
    series, unless `full`. Data that can't be decoded is said to be so."""
    if event.scrubbed and event.lane == "points":
        return None
    try:
        if event.lane == "journal":
            return json.loads(event.data)
        event_type = _TYPES[(event.type, event.version)]
        return _points(event_type.decode(event.data), full)
    except (ValueError, KeyError) as error:
        return f"not readable by this version of Runfold: {error!r}"


def _points(block: Block, full: bool) -> dict[str, Any]:
    found = []
    for place, series in enumerate(block.series):
        places = (block.index == place).nonzero()[0].tolist()
        shown = places
        if not full and len(places) > SHOWN_POINTS + 1:
            shown = [*places[:SHOWN_POINTS], places[-1]]
        about = {name: value for name, value in zip(series._fields, series, strict=True) if value}
        points = [
            {
                "step": int(block.steps[at]),
                "timestamp": int(block.timestamps[at]),
                "value": number_text(float(block.values[at])),
            }
            for at in shown
        ]
        found.append({**about, "count": len(places), "points": points})
    return {"count": len(block), "series": found}


def run_events(
    log: Log,
    selection: Selection,
    printer: Printer,
    *,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Prints the selected events in order of time; with `follow` also those that come, until told
    to stop. Returns how many."""
    heads = {partition: log.head(partition) for partition in log.partitions()}
    if selection.experiment_id is not None:
        # Which runs are the experiment's must be known before the first of their events.
        for event in _all(log, JOURNAL, 0, heads[JOURNAL]):
            selection.wants(event)
    past = _past(log, selection, heads)
    count = 0
    for page in _pages(heapq.merge(*past, key=lambda event: event.time)):
        printer.print(page)
        count += len(page)
    while follow and not stop():
        new = []
        for partition in log.partitions():
            events = log.read(partition, heads.get(partition, 0), PAGE)
            if events:
                heads[partition] = events[-1].position
            wanted = [event for event in events if selection.wants(event)]
            new += wanted if partition.lane in selection.lanes else []
        if new:
            printer.print(new, wait_s=VERDICT_WAIT_S)
            count += len(new)
        else:
            time.sleep(POLL_S)
    return count


def _all(log: Log, partition: Partition, after: int, head: int) -> Iterator[Event]:
    while after < head:
        events = log.read(partition, after, min(PAGE, head - after))
        yield from (event for event in events if event.position <= head)
        after = events[-1].position


def _past(
    log: Log, selection: Selection, heads: Mapping[Partition, int]
) -> Iterator[Iterator[Event]]:
    """What is wanted of what there is, a sequence for each partition or lane."""
    if selection.subject is None:
        for partition, head in heads.items():
            if partition.lane in selection.lanes:
                events = _all(log, partition, selection.after, head)
                yield filter(selection.wants, events)
        return

    def is_wanted(event: Event) -> bool:
        head = heads.get(Partition(event.lane, event.partition), 0)
        return selection.after < event.position <= head

    for lane in selection.lanes:
        yield filter(is_wanted, log.about(lane, selection.subject))


def _pages(events: Iterator[Event]) -> Iterator[list[Event]]:
    page: list[Event] = []
    for event in events:
        page.append(event)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def _selection(
    run_id: str | None,
    experiment_id: str | None,
    model_id: str | None,
    lane: Lane | None,
    after: int,
) -> Selection:
    if sum(one is not None for one in (run_id, experiment_id, model_id)) > 1:
        raise click.UsageError("give one of --run-id, --experiment-id and --model-id")
    if after and lane is None:
        raise click.UsageError("--after counts in one lane: give --lane journal or --lane points")
    lanes: Sequence[Lane] = LANES if lane is None else (lane,)
    return Selection(lanes, after, run_id or model_id, experiment_id)


@click.command("events")
@click.option("--run-id", metavar="ID", help="Only what is about this run.")
@click.option(
    "--experiment-id", metavar="ID", help="Only what is about this experiment, its runs and models."
)
@click.option("--model-id", metavar="ID", help="Only what is about this logged model.")
@click.option("--lane", type=click.Choice(LANES), help="One lane alone.  [default: both]")
@click.option("--after", type=int, default=0, help="Only behind this position; needs --lane.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True
)
@click.option("--full", is_flag=True, help="Show long data and every metric point.")
@storage_options
def events_command(
    run_id: str | None,
    experiment_id: str | None,
    model_id: str | None,
    lane: Lane | None,
    after: int,
    follow: bool,
    form: str,
    full: bool,
    **options: Any,
) -> None:
    """Print the events of the log, oldest first: all, or those about one thing."""
    selection = _selection(run_id, experiment_id, model_id, lane, after)
    try:
        with existing_stores(settings_from(options)) as stores:
            printer = Printer(stores.views, click.echo, form == "json", full)
            with contextlib.suppress(KeyboardInterrupt):
                count = run_events(stores.log, selection, printer, follow=follow)
                if not count:
                    click.echo("There are no such events.", err=True)
    except (MaintenanceError, LogError, SettingError) as error:
        raise click.ClickException(str(error)) from error
