"""Artifacts: those of a run, and the proxy through which clients keep theirs on this server."""

from collections.abc import Awaitable, Callable
from pathlib import PureWindowsPath
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.answers import json_answer
from api.errors import error_response
from api.requests import Int32, RequiredText, RunId, decode
from api.services import Services, services_of
from api.transfers import (
    content_disposition,
    list_answer,
    store_body,
    stream_file,
    too_large,
)
from events.blobs import BlobStore, DirectAccess, blob_path, safe_path
from events.errors import InvalidParameterValue, NotImplementedHere
from projections.logged_models import get_model_row
from projections.runs import artifact_uri

Handler = Callable[[Request], Awaitable[Response]]

UPLOAD_BYTES_MAX: Final = 10 * 1024 * 1024
EXPIRATION_S_MAX: Final = 7 * 24 * 3600
PRESIGNED_UPLOAD_S: Final = 900
PARTS_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Ten thousand parts, each with its URL."""
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


class UploadedPart(msgspec.Struct):
    """A part that a client has sent to the store."""

    part_number: Int32
    etag: RequiredText


class CompleteMultipart(msgspec.Struct):
    """Ends an upload in parts."""

    path: RequiredText
    parts: list[UploadedPart]
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
    """A URL of the store itself, to download an artifact of a run from."""
    asked = await decode(request, PresignDownload)
    path = safe_path(asked.path)
    uri, store, where = await _of_run(request, asked.run_id, path)
    direct = _presigning(request, store, "download", uri)
    seconds = asked.expiration or services_of(request).settings.presigned_url_s
    signed = await run_in_threadpool(direct.download_url, where, seconds, _attached(path))
    return json_answer({"presigned_url": signed.url, "file_size": signed.size_bytes})


async def presign_upload(request: Request) -> Response:
    """A URL of the store itself, to upload an artifact of a run or a model to."""
    asked = await decode(request, PresignUpload)
    if bool(asked.run_id) == bool(asked.model_id):
        raise InvalidParameterValue("Exactly one of run_id and model_id must be provided.")
    path = safe_path(asked.path)
    if asked.run_id:
        uri, store, where = await _of_run(request, asked.run_id, path)
    else:
        services = services_of(request)
        model = await services.views.read(get_model_row, asked.model_id or "")
        uri = model["artifact_location"]
        store, where = services.artifacts.locate(uri, path)
    direct = _presigning(request, store, "upload", uri)
    seconds = asked.expiration or PRESIGNED_UPLOAD_S
    signed = await run_in_threadpool(direct.upload_url, where, seconds)
    return json_answer({"presigned_url": signed.url, "headers": signed.headers})


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
    """Begins an upload in parts, each to a URL of the store itself."""
    folder = safe_path(request.path_params["path"])
    asked = await decode(request, CreateMultipart)
    store = _direct(request, _proxy(request))
    if store is None:
        raise _no_multipart("upload")
    path = _uploaded_path(folder, asked.path)
    begun = await run_in_threadpool(store.create_parts, path, asked.num_parts or 1)
    credentials = [{"url": url, "part_number": part} for part, url in enumerate(begun.urls, 1)]
    return json_answer({"credentials": credentials, "upload_id": begun.upload_id})


async def complete_multipart(request: Request) -> Response:
    """Makes an artifact of the parts that were sent to the store."""
    folder = safe_path(request.path_params["path"])
    asked = await decode(request, CompleteMultipart, body_bytes_max=PARTS_BODY_BYTES_MAX)
    store = _direct(request, _proxy(request))
    if store is None:
        raise _no_multipart("upload")
    parts = [(part.part_number, part.etag) for part in asked.parts]
    path = _uploaded_path(folder, asked.path)
    await run_in_threadpool(store.complete_parts, path, _upload_id(asked.upload_id), parts)
    return json_answer({})


async def abort_multipart(request: Request) -> Response:
    """Gives up an upload in parts; nothing there is no error."""
    folder = safe_path(request.path_params["path"])
    asked = await decode(request, AbortMultipart)
    store = _direct(request, _proxy(request))
    if store is None:
        raise _no_multipart("upload")
    path = _uploaded_path(folder, asked.path)
    await run_in_threadpool(store.abort_parts, path, _upload_id(asked.upload_id))
    return json_answer({})


async def presign_proxied(request: Request) -> Response:
    """A URL of the store itself, to download an artifact of the proxy from."""
    path = safe_path(request.path_params["path"])
    store = _direct(request, _proxy(request))
    if store is None:
        raise _no_multipart("download")
    seconds = services_of(request).settings.presigned_url_s
    signed = await run_in_threadpool(store.download_url, path, seconds, _attached(path))
    return json_answer(
        {"url": signed.url, "headers": signed.headers, "file_size": signed.size_bytes}
    )


def gives_urls(services: Services) -> bool:
    """Whether clients can up- and download past this server what is behind its proxy."""
    settings = services.settings
    on = settings.presigned_urls and settings.serve_artifacts
    return on and isinstance(services.artifacts.proxied, DirectAccess)


def _direct(request: Request, store: BlobStore) -> DirectAccess | None:
    """The store, if clients may go to it themselves."""
    if services_of(request).settings.presigned_urls and isinstance(store, DirectAccess):
        return store
    return None


def _presigning(request: Request, store: BlobStore, direction: str, uri: str) -> DirectAccess:
    """The store of a run's or a model's artifacts. Raises where it gives no URLs."""
    scheme = uri.partition(":")[0]
    if scheme in ("mlflow-artifacts", "http", "https"):
        raise InvalidParameterValue(
            f"Presigned {direction} is not possible for artifacts behind the server's proxy "
            f"({scheme}:); it needs a location in cloud storage."
        )
    direct = _direct(request, store)
    if direct is None:
        raise NotImplementedHere(
            f"Presigned {direction} is not supported for the current artifact repository"
        )
    return direct


def _uploaded_path(folder: str, local_file: str) -> str:
    """Where a client's file goes: under its own name in the folder."""
    windows = PureWindowsPath(local_file)
    name = windows.name if windows.is_absolute() else local_file.rpartition("/")[2]
    return f"{folder}/{name}" if folder else name


def _upload_id(sent: str | None) -> str:
    if not sent:
        raise InvalidParameterValue("Missing value for required parameter 'upload_id'.")
    return sent


def _attached(path: str) -> str:
    return content_disposition(path.rpartition("/")[2])


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
