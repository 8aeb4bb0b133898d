"""Artifacts: those of a run, and the proxy through which clients keep theirs on this server."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer
from api.errors import error_response
from api.requests import Int32, RequiredText, RunId, decode
from api.services import services_of
from api.transfers import list_answer, store_body, stream_file, too_large
from events.blobs import BlobStore, blob_path, safe_path
from events.errors import InvalidParameterValue, NotImplementedHere
from projections.logged_models import get_model_row
from projections.runs import artifact_uri

Handler = Callable[[Request], Awaitable[Response]]

UPLOAD_BYTES_MAX: Final = 10 * 1024 * 1024
EXPIRATION_S_MAX: Final = 7 * 24 * 3600
FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class ListArtifacts(msgspec.Struct):
    """The files of a run, in one of its folders."""

    run_id: RunId
    path: str | None = None
    page_token: str | None = None


class ListProxied(msgspec.Struct):
    """The files in a folder of the proxy."""

    path: str | None = None


class CreateMultipart(msgspec.Struct):
    """Starts an upload in parts."""

    path: RequiredText
    num_parts: Int32 | None = None


class CompleteMultipart(msgspec.Struct):
    """Ends an upload in parts."""

    path: RequiredText
    parts: list[Any]
    upload_id: str | None = None


class AbortMultipart(msgspec.Struct):
    """Gives up an upload in parts."""

    path: RequiredText
    upload_id: str | None = None


class PresignDownload(msgspec.Struct):
    """Asks for a URL of the store itself, to download from."""

    run_id: RequiredText
    path: RequiredText
    expiration: Annotated[int, Meta(ge=1, le=EXPIRATION_S_MAX)] | None = None


class PresignUpload(msgspec.Struct):
    """Asks for a URL of the store itself, to upload to."""

    path: RequiredText
    run_id: str | None = None
    model_id: str | None = None
    expiration: Annotated[int, Meta(ge=1, le=EXPIRATION_S_MAX)] | None = None


async def list_run_artifacts(request: Request) -> Response:
    """What is in a folder of a run's artifacts."""
    asked = await decode(request, ListArtifacts)
    folder = safe_path(asked.path or "")
    uri, store, path = await _of_run(request, asked.run_id, folder)
    return list_answer(await run_in_threadpool(store.list, path), folder, uri)


async def get_run_artifact(request: Request) -> Response:
    """One of a run's artifacts."""
    query = request.query_params
    path = query.get("path")
    if path is None:
        raise InvalidParameterValue("Missing value for required parameter 'path'.")
    _, store, where = await _of_run(
        request, query.get("run_id") or query.get("run_uuid") or "", safe_path(path)
    )
    return await stream_file(request, store, where)


async def upload_run_artifact(request: Request) -> Response:
    """Takes one small artifact of a run, as the UI sends it."""
    query = request.query_params
    run_id, sent = query.get("run_uuid"), query.get("path")
    if not run_id or not sent:
        raise InvalidParameterValue(f"Request must specify {'path' if run_id else 'run_uuid'}.")
    path = blob_path(sent)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() in FORMS:
        raise InvalidParameterValue("Request must specify data: the bytes themselves, not a form.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > UPLOAD_BYTES_MAX:
        raise too_large(UPLOAD_BYTES_MAX)
    _, store, where = await _of_run(request, run_id, path)
    await store_body(request, store, where, bytes_min=1, bytes_max=UPLOAD_BYTES_MAX)
    return Response(media_type="application/json")


async def presign_download(request: Request) -> Response:
    """Refuses: bytes in a folder, or behind this server, have no URL of their own."""
    asked = await decode(request, PresignDownload)
    uri, _, _ = await _of_run(request, asked.run_id, safe_path(asked.path))
    raise _not_presigned("download", uri)


async def presign_upload(request: Request) -> Response:
    """Refuses: bytes in a folder, or behind this server, have no URL of their own."""
    asked = await decode(request, PresignUpload)
    if bool(asked.run_id) == bool(asked.model_id):
        raise InvalidParameterValue("Exactly one of run_id and model_id must be provided.")
    path = safe_path(asked.path)
    if asked.run_id:
        uri, _, _ = await _of_run(request, asked.run_id, path)
    else:
        model = await services_of(request).views.read(get_model_row, asked.model_id or "")
        uri = model["artifact_location"]
    raise _not_presigned("upload", uri)


async def list_proxied(request: Request) -> Response:
    """What is in a folder of the proxy; names without their folder, as MLflow's proxy has it."""
    asked = await decode(request, ListProxied)
    entries = await run_in_threadpool(_proxy(request).list, asked.path or "")
    return list_answer(entries, "")


async def get_proxied(request: Request) -> Response:
    """One artifact by its path in the proxy."""
    path = safe_path(request.path_params["path"])
    return await stream_file(request, _proxy(request), path)


async def put_proxied(request: Request) -> Response:
    """Takes an artifact of any size."""
    await store_body(request, _proxy(request), blob_path(request.path_params["path"]))
    return Response()


async def delete_proxied(request: Request) -> Response:
    """Deletes an artifact, or a folder with all that is in it; nothing there is no error."""
    await run_in_threadpool(_proxy(request).delete_tree, request.path_params["path"])
    return json_answer({})


async def create_multipart(request: Request) -> Response:
    """Refuses, as MLflow does over a folder: there are no parts to upload to."""
    safe_path(request.path_params["path"])
    await decode(request, CreateMultipart)
    raise _no_multipart("upload")


async def complete_multipart(request: Request) -> Response:
    """Refuses, as MLflow does over a folder."""
    safe_path(request.path_params["path"])
    await decode(request, CompleteMultipart)
    raise _no_multipart("upload")


async def abort_multipart(request: Request) -> Response:
    """Refuses, as MLflow does over a folder."""
    safe_path(request.path_params["path"])
    await decode(request, AbortMultipart)
    raise _no_multipart("upload")


async def presign_proxied(request: Request) -> Response:
    """Refuses, as MLflow does over a folder."""
    safe_path(request.path_params["path"])
    raise _no_multipart("download")


async def _of_run(request: Request, run_id: str, path: str) -> tuple[str, BlobStore, str]:
    """A run's artifact URI, the store that this is in, and what `path` is called there."""
    services = services_of(request)
    uri = await services.views.read(artifact_uri, run_id)
    store, where = services.artifacts.locate(uri, path)
    return uri, store, where


def _proxy(request: Request) -> BlobStore:
    return services_of(request).artifacts.proxied


def _no_multipart(direction: str) -> NotImplementedHere:
    return NotImplementedHere(
        f"Multipart {direction} is not supported for the current artifact repository"
    )


def _not_presigned(direction: str, uri: str) -> Exception:
    scheme = uri.partition(":")[0]
    if scheme in ("mlflow-artifacts", "http", "https"):
        return InvalidParameterValue(
            f"Presigned {direction} is not possible for artifacts behind the server's proxy "
            f"({scheme}:); it needs a location in cloud storage."
        )
    return NotImplementedHere(
        f"Presigned {direction} is not supported for the current artifact repository"
    )


async def tracking_disabled(request: Request) -> Response:
    """What every tracking endpoint answers with `--artifacts-only`; the status is MLflow's."""
    return error_response(
        "ENDPOINT_NOT_FOUND",
        f"{request.url.path[:200]} is disabled: this server runs with --artifacts-only.",
        status=503,
    )


def _when_serving(handler: Handler) -> Handler:
    """The handler, unless the server runs with `--no-serve-artifacts`; the status is MLflow's."""

    async def guarded(request: Request) -> Response:
        if services_of(request).settings.serve_artifacts:
            return await handler(request)
        return error_response(
            "ENDPOINT_NOT_FOUND",
            f"{request.url.path[:200]} is disabled: this server runs with --no-serve-artifacts.",
            status=503,
        )

    return guarded


ROUTES: list[Route] = [
    Route("/api/2.0/mlflow/artifacts/list", list_run_artifacts, methods=["GET"]),
    Route("/api/2.0/mlflow/artifacts/presigned-download-url", presign_download, methods=["POST"]),
    Route("/api/2.0/mlflow/artifacts/presigned-upload-url", presign_upload, methods=["POST"]),
    Route("/get-artifact", get_run_artifact, methods=["GET"]),
    Route("/ajax-api/2.0/mlflow/upload-artifact", upload_run_artifact, methods=["POST"]),
]
"""Of runs: off with `--artifacts-only`."""

PROXY: Final = "/api/2.0/mlflow-artifacts"

PROXY_ROUTES: list[Route] = [
    Route(f"{PROXY}/artifacts", _when_serving(list_proxied), methods=["GET"]),
    Route(f"{PROXY}/artifacts/{{path:path}}", _when_serving(get_proxied), methods=["GET"]),
    Route(f"{PROXY}/artifacts/{{path:path}}", _when_serving(put_proxied), methods=["PUT"]),
    Route(f"{PROXY}/artifacts/{{path:path}}", _when_serving(delete_proxied), methods=["DELETE"]),
    Route(f"{PROXY}/mpu/create/{{path:path}}", _when_serving(create_multipart), methods=["POST"]),
    Route(
        f"{PROXY}/mpu/complete/{{path:path}}", _when_serving(complete_multipart), methods=["POST"]
    ),
    Route(f"{PROXY}/mpu/abort/{{path:path}}", _when_serving(abort_multipart), methods=["POST"]),
    Route(f"{PROXY}/presigned/{{path:path}}", _when_serving(presign_proxied), methods=["GET"]),
]
"""Of the proxy: on with `--artifacts-only`, off with `--no-serve-artifacts`."""
