"""`runfold log`: makes logs, and moves one from one place to another."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from events.errors import RunfoldError
from events.event import JOURNAL, Event
from events.log import PURGED_TYPES, Log, LogError
from events.places import SettingError
from events.settings import Settings
from projections.purges import purged_subjects
from projections.scrubbing import kept_data
from projections.sqlite_views import SqliteViews
from workers.log_copy import Change, CopyError, copy_log
from workers.logs import configure_logs
from workers.maintenance import LOG_LEVEL, MaintenanceError, fold_up_to
from workers.options import kafka_options
from workers.stores import kafka_module, open_copy_target, open_log


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """What goes wrong is said in a line."""
    try:
        yield
    except (RunfoldError, CopyError, LogError, MaintenanceError, SettingError) as error:
        raise click.ClickException(str(error)) from error


@click.group("log")
def log_command() -> None:
    """Make a log, or copy one from one place to another."""
    configure_logs(LOG_LEVEL, "log")


@log_command.command("init")
@click.argument("uri")
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=12,
    show_default=True,
    help="Of Kafka's topic of points: so many projectors can share them.",
)
@click.option(
    "--replication",
    type=int,
    default=-1,
    help="Copies of each of Kafka's partitions.  [default: as the brokers have it]",
)
@kafka_options
def init_command(uri: str, partitions: int, replication: int, **kafka: Any) -> None:
    """Make an empty log: the tables, or the topics, that it needs.

    `runfold server` does it by itself where it finds none, but for Kafka's topics. A log that is
    there stays as it is.
    """
    with _said():
        access = Settings(**kafka).kafka_access
        if uri.startswith("kafka://"):
            kafka_module().init_log(uri, access, partitions, replication)
        log = open_log(uri, kafka=access)
        click.echo(f"The log {log.identity.log_id} is there, with {_told(log)}.")
        log.close()


@log_command.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--scrub", is_flag=True, help="Leave behind the data of what gc has purged.")
@kafka_options
def copy_command(source: str, target: str, scrub: bool, **kafka: Any) -> None:
    """Copy all events of one log into another, from any kind to any other.

    FROM and TO are URIs as --log-uri takes them. TO is made where there is none; it must be empty,
    or an earlier copy of the same log, which is gone on with: after it was killed, and again when
    FROM has grown. A server may run on FROM, never on TO. In the end both are read and compared.
    """
    with _said(), contextlib.ExitStack() as opened:
        access = Settings(**kafka).kafka_access
        old = opened.enter_context(contextlib.closing(open_log(source, kafka=access, make=False)))
        new = opened.enter_context(contextlib.closing(open_copy_target(target, kafka=access)))
        copied = copy_log(old, new, scrub=scrub, change=_scrubbing(old) if scrub else _unchanged)
        for lane, count in copied.events.items():
            click.echo(
                f"{lane}: {count:,} events, the same in both (digest {copied.digests[lane]})"
            )
        click.echo(f"{copied.new:,} of them are new there.")
        if copied.keeps_positions:
            click.echo("Positions and the log's id are the same: its views go on with the copy.")
        else:
            click.echo(
                f"Positions differ, so the copy is a log of its own ({new.identity.log_id}): views "
                "and lake are made anew from it, and page tokens from before are refused."
            )


def _told(log: Log) -> str:
    return " and ".join(f"{head:,} in {partition}" for partition, head in log.heads().items())


def _unchanged(event: Event) -> Event:
    return event


def _scrubbing(source: Log) -> Change:
    """What leaves the data of purged subjects behind, as gc would have scrubbed it."""
    gone = _purged(source)

    def change(event: Event) -> Event:
        if event.subject not in gone or event.scrubbed or event.type in PURGED_TYPES:
            return event
        return msgspec.structs.replace(event, data=kept_data(event), scrubbed=True)

    return change


def _purged(source: Log) -> set[str]:
    """The subjects whose purge was accepted, which the fold of the journal tells."""
    with tempfile.TemporaryDirectory() as folder:
        views = SqliteViews(Path(folder) / "views.db", source.identity.log_id)
        try:
            views.create()
            fold_up_to(source, views, {JOURNAL: source.head(JOURNAL)}, "finding what is purged")
            with views.read() as connection:
                return purged_subjects(connection)
        finally:
            views.close()
