"""The `server` command; light, for it lives as long as the server."""

from __future__ import annotations

import sys
from typing import Any

import click

from events.opened_blobs import check_place
from events.places import SettingError
from workers.options import server_options, settings_from
from workers.server import run_server


@click.command("server")
@server_options
def server_command(**options: Any) -> None:
    """Start the server: the API and its worker, over SQLite and a folder.

    Without any option it listens on http://127.0.0.1:5000 and keeps everything in ./runfold-data.
    """
    settings = settings_from(options)
    try:
        _ = (settings.log_place, settings.views_place, settings.lake_place)
        check_place(settings.artifacts_place)
        check_place(settings.lake_place)
    except SettingError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(run_server(settings))
