"""The settings as options of the command line: the only place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from events.settings import SETTINGS, Setting, Settings

Command = TypeVar("Command", bound=Callable[..., Any])
_COMMA_SEPARATED = ("allowed_hosts", "cors_allowed_origins")


def _option(setting: Setting) -> Callable[[Command], Command]:
    kind: Any = None
    if isinstance(setting.default, bool):
        kind = None
    elif isinstance(setting.default, Path):
        kind = click.Path(path_type=Path, file_okay=False)
    elif setting.default is not None:
        kind = type(setting.default)
    return click.option(
        setting.flag,
        setting.field,
        envvar=list(setting.environment),
        default=setting.default,
        type=kind,
        is_flag=(isinstance(setting.default, bool) and "/" not in setting.flag) or None,
        show_default=setting.default not in (None, ""),
        show_envvar=True,
        metavar=setting.metavar,
        help=setting.help,
    )


def storage_options(command: Command) -> Command:
    """Adds the options that say where the log, the views, the lake and the artifacts are."""
    return _with([setting for setting in SETTINGS if setting.storage], command)


def kafka_options(command: Command) -> Command:
    """Adds the options that say how Kafka's brokers are spoken to."""
    return _with([setting for setting in SETTINGS if setting.field.startswith("kafka_")], command)


def query_options(command: Command) -> Command:
    """Adds the options that bound a SQL query."""
    fields = ("sql_seconds", "sql_rows", "sql_memory_mb", "sql_threads")
    return _with([setting for setting in SETTINGS if setting.field in fields], command)


def server_options(command: Command) -> Command:
    """Adds every option of the server."""
    return _with(list(SETTINGS), command)


def _with(settings: list[Setting], command: Command) -> Command:
    for setting in reversed(settings):
        command = _option(setting)(command)
    return command


def settings_from(options: dict[str, Any]) -> Settings:
    """The settings that the options name. Raises click.UsageError for what can't be used."""
    values = dict(options)
    for name in _COMMA_SEPARATED:
        if values.get(name):
            values[name] = tuple(part.strip() for part in values[name].split(",") if part.strip())
    settings = Settings(**values)
    prefix = settings.static_prefix
    if prefix and (not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix):
        raise click.UsageError("--static-prefix must begin with '/', not end with it, nor have '{'")
    return settings


def arguments_of(settings: Settings) -> list[str]:
    """The settings as arguments, for a process that is started with the same; the others are in
    its `environment_of`."""
    arguments: list[str] = []
    for setting in SETTINGS:
        if setting.secret:
            continue
        value = getattr(settings, setting.field)
        if isinstance(value, bool):
            on, _, off = setting.flag.partition("/")
            if value:
                arguments.append(on)
            elif off:
                arguments.append(off)
        elif value not in (None, ""):
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            arguments += [setting.flag, text]
    return arguments


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of such a process: this one's, and the settings that may have a password in
    them, for arguments can be read by every user of the machine."""
    secrets = [setting for setting in SETTINGS if setting.secret]
    given = {one.environment[0]: getattr(settings, one.field) for one in secrets}
    return {**os.environ, **{name: value for name, value in given.items() if value}}
