"""What is not MLflow's data: the page at `/`, health, version, and what the server can do."""

import asyncio
from html import escape
from importlib.metadata import version
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from api.answers import json_answer
from api.artifacts import gives_urls
from api.services import services_of

MLFLOW_VERSION: Final = "3.17.2"
"""The version whose REST API this server answers; clients check it."""

RUNFOLD_VERSION: Final = version("runfold")

SERVER_INFO: Final[dict[str, Any]] = {
    "store_type": "SqlStore",
    "workspaces_enabled": False,
    "trace_archival_enabled": False,
    "presigned_upload_run_id_supported": True,
    "presigned_upload_model_id_supported": True,
    "features_enabled": {"gateway": False},
}

PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runfold</title>
<style>
  :root {{ color-scheme: light dark; --ink: #1b2430; --soft: #5c6878; --paper: #f6f5f1;
    --card: #fff; --line: #dfddd5; --fold: #c2542d; --code: #14202b; --codeink: #e6edf3; }}
  @media (prefers-color-scheme: dark) {{ :root {{ --ink: #e8e6e1; --soft: #9aa5b1;
    --paper: #15191e; --card: #1d232a; --line: #313943; --fold: #ee8455; --code: #0d1115; }} }}
  * {{ box-sizing: border-box; }}
  body {{ margin: 0; background: var(--paper); color: var(--ink);
    font: 16px/1.6 system-ui, -apple-system, "Segoe UI", sans-serif; }}
  main {{ max-width: 44rem; margin: 0 auto; padding: 4rem 1.25rem 3rem; }}
  header {{ display: flex; align-items: center; gap: .9rem; }}
  svg {{ flex: none; color: var(--fold); }}
  h1 {{ font-size: 2rem; line-height: 1.1; letter-spacing: -.02em; margin: 0; }}
  .version {{ color: var(--soft); font-size: .9rem; }}
  .lead {{ font-size: 1.15rem; margin: 1.6rem 0 2rem; }}
  section {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px;
    padding: 1.25rem 1.4rem; margin: 0 0 1.1rem; }}
  h2 {{ font-size: 1rem; margin: 0 0 .7rem; }}
  pre {{ background: var(--code); color: var(--codeink); border-radius: 8px; margin: 0 0 .8rem;
    padding: .85rem 1rem; overflow-x: auto; font-size: .9rem; line-height: 1.5; }}
  pre:last-child, p:last-child {{ margin-bottom: 0; }}
  code {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
  p {{ margin: 0 0 .8rem; }}
  a {{ color: var(--fold); }}
  footer {{ color: var(--soft); font-size: .9rem; margin-top: 1.6rem; }}
</style>
</head>
<body>
<main>
<header>
  <svg width="44" height="44" viewBox="0 0 44 44" fill="none" stroke="currentColor"
    stroke-width="3.4" stroke-linejoin="round" stroke-linecap="round" aria-hidden="true">
    <path d="M6 11h22l10 8H16z"/><path d="M16 19h22l-10 8H6z" opacity=".65"/>
    <path d="M6 27h22l10 8H16z" opacity=".35"/>
  </svg>
  <div>
    <h1>Runfold</h1>
    <div class="version">{runfold} &middot; speaks the REST API of MLflow {mlflow}</div>
  </div>
</header>
<p class="lead">A tracking server for machine-learning runs. All that is logged is kept as events
in an append-only log; all that is shown is folded from it.</p>
<section>
  <h2>Point a client here</h2>
  <pre><code>export MLFLOW_TRACKING_URI={uri}</code></pre>
  <p>or, in Python, with the <code>mlflow</code> package as it is:</p>
  <pre><code>import mlflow

mlflow.set_tracking_uri("{uri}")
with mlflow.start_run():
    mlflow.log_param("lr", 0.01)
    mlflow.log_metric("loss", 0.42, step=1)</code></pre>
</section>
<section>
  <h2>Look at this server</h2>
  <p><a href="{path}/health">health</a> (as JSON with <code>Accept: application/json</code>),
  <a href="{path}/ready">ready</a>, <a href="{path}/metrics">metrics</a>,
  <a href="{path}/version">version</a>,
  <a href="{path}/api/3.0/mlflow/server-info">server-info</a>,
  <a href="{path}/api/2.0/mlflow/experiments/search?max_results=100">experiments</a>,
  <a href="{path}/api/2.0/mlflow-artifacts/artifacts">artifacts</a></p>
</section>
<footer>There is no graphical interface in this version: read runs with the client or the REST
API.</footer>
</main>
</body>
</html>
"""


async def home(request: Request) -> Response:
    """The page for whoever opens the server in a browser."""
    prefix = services_of(request).settings.static_prefix
    uri = f"{request.url.scheme}://{request.headers.get('host', 'localhost')}{prefix}"
    page = PAGE.format(
        runfold=escape(RUNFOLD_VERSION),
        mlflow=MLFLOW_VERSION,
        uri=escape(uri),
        path=escape(prefix),
    )
    return HTMLResponse(page, headers={"content-security-policy": PAGE_POLICY})


async def health(request: Request) -> Response:
    """200 while this process serves; with `Accept: application/json`, how far each lane is folded.

    A stopped lane is not a reason to restart the server, which would stop at the same event again,
    so the status stays 200 and the JSON names the event.
    """
    if "application/json" not in request.headers.get("accept", ""):
        return PlainTextResponse("OK")
    services = services_of(request)
    if services.settings.artifacts_only:
        # Nothing is folded here, so no lane can be behind.
        return json_answer({"status": "ok", "lanes": {}})
    # Not in the threads that transfer artifacts, which may all wait for a store far away.
    found = await asyncio.to_thread(services.health)
    slots = getattr(request.app.state, "query_slots", None)
    return json_answer(found if slots is None else {**found, "sql": slots.health()})


async def mlflow_version(_request: Request) -> Response:
    """The MLflow version that clients are told."""
    return PlainTextResponse(MLFLOW_VERSION)


async def server_info(request: Request) -> Response:
    """What this server can do, as clients ask before they use it."""
    in_parts = gives_urls(services_of(request))
    parts = {"multipart_uploads_enabled": in_parts, "multipart_downloads_enabled": in_parts}
    return json_answer({**SERVER_INFO, **parts})


ROUTES: list[Route] = [
    Route("/", home, methods=["GET"]),
    Route("/health", health, methods=["GET"]),
    Route("/version", mlflow_version, methods=["GET"]),
    Route("/api/3.0/mlflow/server-info", server_info, methods=["GET"]),
]
