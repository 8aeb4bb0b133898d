"""The command line: wires everything together; each command is imported when it is asked for."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "server": ("workers.commands", "server_command"),
    "api": ("workers.api_process", "api_command"),
    "worker": ("workers.cli", "worker_group"),
    "gc": ("workers.gc", "gc_command"),
    "rebuild": ("workers.rebuild", "rebuild_command"),
    "verify": ("workers.verify", "verify_command"),
    "events": ("workers.events_command", "events_command"),
    "log": ("workers.log_command", "log_command"),
    "sql": ("workers.sql_command", "sql_command"),
}
"""Each command's module and name. The supervisor of a server must not load what they need."""
WORKERS: dict[str, tuple[str, str]] = {
    "projector": ("workers.projector_process", "projector_command"),
    "sealer": ("workers.sealer_process", "sealer_command"),
    "gc": ("workers.gc_process", "gc_worker_command"),
    "build-sealer": ("workers.build_sealer", "build_sealer_command"),
}
"""The processes that `runfold server` starts beside the API, or that are started alone; the last is
what `rebuild` and `verify` start."""

COLLECT_EVERY = 20_000
"""New containers after which the garbage collector looks for cycles among them."""


class Commands(click.Group):
    """The commands of a table, each loaded when it is asked for."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name."""
        if cmd_name not in self._table:
            return None
        module, name = self._table[cmd_name]
        command: Any = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.command("worker", cls=Commands, table=WORKERS)
def worker_group() -> None:
    """Run one of the server's workers alone, beside `runfold api`.

    Each can run many times: one of a role is active, the others stand by to take over.
    """


@click.command(
    cls=Commands, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="runfold", prog_name="runfold")
def main() -> None:
    """Runfold: a tracking server for machine-learning runs that speaks MLflow's REST API and keeps
    everything in an append-only event log."""
    # Each row and request makes containers that are gone soon after; by default the collector looks
    # at them every 700. What the libraries made at their import is looked at ever more rarely.
    gc.set_threshold(COLLECT_EVERY, 20, 50)


if __name__ == "__main__":
    main()
