"""Sequences over artifacts: the proxy, the listing of runs and models, download and upload."""

from tests.differential.calls import AJAX, API, SETUP, Call, Case, get, json_call, post
from tests.differential.logged_models import MODELS, create

PROXY = "/api/2.0/mlflow-artifacts/artifacts"
ROOT = "${exp}/${run}/artifacts"


def put(path: str, content: bytes, **headers: str) -> Call:
    return Call("PUT", f"{PROXY}/{path}", raw=content, headers=headers)


def fetch(path: str, **headers: str) -> Call:
    return Call("GET", f"{PROXY}/{path}", headers=headers)


def remove(path: str) -> Call:
    return Call("DELETE", f"{PROXY}/{path}")


def listing(path: str | None = None, **query: object) -> Call:
    given = {} if path is None else {"path": path}
    return get("artifacts/list", {"run_id": "${run}", **given, **query})


THE_PROXY = Case(
    "artifacts-proxy",
    (
        *SETUP,
        put(f"{ROOT}/a.txt", b"hello"),
        put(f"{ROOT}/sub/b.bin", bytes(range(256))),
        put(f"{ROOT}/sub/deep/c d.txt", b"with a space"),
        put(f"{ROOT}/sub/ünï.txt", "ünï".encode()),
        put(f"{ROOT}/empty.txt", b""),
        put(f"{ROOT}/a.txt", b"hello again"),
        fetch(f"{ROOT}/a.txt"),
        fetch(f"{ROOT}/sub/b.bin"),
        fetch(f"{ROOT}/sub/deep/c d.txt"),
        fetch(f"{ROOT}/sub/ünï.txt"),
        fetch(f"{ROOT}/empty.txt"),
        fetch(f"{ROOT}/a.txt", Range="bytes=1-3"),
        fetch(f"{ROOT}/a.txt", Range="bytes=-3"),
        fetch(f"{ROOT}/a.txt", Range="bytes=6-"),
        fetch(f"{ROOT}/a.txt", Range="bytes=100-200"),
        fetch(f"{ROOT}/none.txt"),
        fetch(f"{ROOT}/sub"),
        get(PROXY, {"path": ROOT}),
        get(PROXY, {"path": f"{ROOT}/sub"}),
        get(PROXY, {"path": f"{ROOT}/sub/deep"}),
        get(PROXY, {"path": f"{ROOT}/none"}),
        get(PROXY, {"path": f"{ROOT}/a.txt"}),
        get(PROXY, {"path": "../"}),
        get(PROXY, {"path": "/etc"}),
        get(PROXY, {"path": "a/../../b"}),
        fetch("%2e%2e/mlflow.db"),
        fetch("..%2fmlflow.db"),
        put("%2e%2e/evil", b"x"),
        put("a/%2e%2e/%2e%2e/evil", b"x"),
        fetch("%252e%252e/mlflow.db"),
        remove("%2e%2e/evil"),
        remove(f"{ROOT}/a.txt"),
        fetch(f"{ROOT}/a.txt"),
        remove(f"{ROOT}/a.txt"),
        remove(f"{ROOT}/sub"),
        get(PROXY, {"path": ROOT}),
    ),
)

OF_RUNS = Case(
    "artifacts-of-runs",
    (
        *SETUP,
        listing(),
        put(f"{ROOT}/model/MLmodel", b"flavors: {}"),
        put(f"{ROOT}/model/data/x.pkl", b"123"),
        put(f"{ROOT}/z.txt", b"z"),
        listing(),
        listing("model"),
        listing("model/data"),
        listing("model/"),
        listing("none"),
        listing("z.txt"),
        listing("../"),
        listing("/etc"),
        listing(""),
        get("artifacts/list", {"run_uuid": "${run}"}),
        get("artifacts/list"),
        get("artifacts/list", {"run_id": "${nothing}"}),
        get(AJAX + "artifacts/list", {"run_id": "${run}"}),
        get("/get-artifact", {"run_id": "${run}", "path": "z.txt"}),
        get("/get-artifact", {"run_uuid": "${run}", "path": "model/MLmodel"}),
        get("/get-artifact", {"run_id": "${run}", "path": "none"}),
        get("/get-artifact", {"run_id": "${run}", "path": "../z"}),
        get("/get-artifact", {"run_id": "${run}", "path": "/etc/passwd"}),
        get("/get-artifact", {"run_id": "${run}"}),
        get("/get-artifact", {"path": "z.txt"}),
        get("/get-artifact", {"run_id": "${nothing}", "path": "z.txt"}),
    ),
)


def upload(query: dict[str, object], content: bytes | None) -> Call:
    return Call("POST", AJAX + "upload-artifact", raw=content, query=tuple(query.items()))


UPLOAD = Case(
    "artifacts-upload",
    (
        *SETUP,
        upload({"run_uuid": "${run}", "path": "notes/a.txt"}, b"from the page"),
        upload({"run_uuid": "${run}", "path": "b.txt"}, b"b"),
        listing("notes"),
        get("/get-artifact", {"run_id": "${run}", "path": "notes/a.txt"}),
        upload({"run_uuid": "${run}", "path": "empty.txt"}, b""),
        upload({"run_uuid": "${run}", "path": "../x"}, b"x"),
        upload({"run_uuid": "${run}"}, b"x"),
        upload({"path": "x"}, b"x"),
        upload({"run_uuid": "${nothing}", "path": "x"}, b"x"),
        upload({"run_uuid": "${run}", "path": "big"}, b"x" * (10 * 1024 * 1024 + 1)),
        listing(),
    ),
)

MULTIPART = "/api/2.0/mlflow-artifacts/mpu"

NOT_FOR_A_FOLDER = Case(
    "artifacts-multipart-presigned",
    (
        *SETUP,
        post(f"{MULTIPART}/create/{ROOT}", {"path": "a.bin", "num_parts": 2}),
        post(f"{MULTIPART}/create/{ROOT}", {"num_parts": 2}),
        post(f"{MULTIPART}/complete/{ROOT}", {"path": "a.bin", "upload_id": "1", "parts": []}),
        post(f"{MULTIPART}/abort/{ROOT}", {"path": "a.bin", "upload_id": "1"}),
        get(f"/api/2.0/mlflow-artifacts/presigned/{ROOT}/a.bin"),
        post("artifacts/presigned-download-url", {"run_id": "${run}", "path": "a.txt"}),
        post("artifacts/presigned-download-url", {"path": "a.txt"}),
        post("artifacts/presigned-download-url", {"run_id": "${nothing}", "path": "a.txt"}),
        post("artifacts/presigned-upload-url", {"run_id": "${run}", "path": "a.txt"}),
        post("artifacts/presigned-upload-url", {"path": "a.txt"}),
        post("artifacts/presigned-upload-url", {"run_id": "${nothing}", "path": "a.txt"}),
        post(
            "artifacts/presigned-download-url",
            {"run_id": "${run}", "path": "a.txt", "expiration": 604801},
        ),
    ),
    of_a_folder=True,
)

MODEL_ROOT = "${exp}/models/${model}/artifacts"

OF_MODELS = Case(
    "artifacts-of-logged-models",
    (
        *SETUP,
        create(name="m", source_run_id="${run}"),
        get(MODELS + "/${model}/artifacts/directories"),
        put(f"{MODEL_ROOT}/MLmodel", b"flavors: {}"),
        put(f"{MODEL_ROOT}/data/x.pkl", b"123"),
        get(MODELS + "/${model}/artifacts/directories"),
        get(MODELS + "/${model}/artifacts/directories", {"artifact_directory_path": "data"}),
        get(MODELS + "/${model}/artifacts/directories", {"artifact_directory_path": "none"}),
        get(MODELS + "/${model}/artifacts/directories", {"artifact_directory_path": "../.."}),
        get(MODELS + "/${nothing}/artifacts/directories"),
        get(AJAX + "logged-models/${model}/artifacts/files", {"artifact_file_path": "MLmodel"}),
        get(AJAX + "logged-models/${model}/artifacts/files", {"artifact_file_path": "data/x.pkl"}),
        get(AJAX + "logged-models/${model}/artifacts/files", {"artifact_file_path": "none"}),
        get(AJAX + "logged-models/${model}/artifacts/files", {"artifact_file_path": "../x"}),
        get(AJAX + "logged-models/${model}/artifacts/files"),
        get(AJAX + "logged-models/${nothing}/artifacts/files", {"artifact_file_path": "a"}),
        json_call("DELETE", MODELS + "/${model}", {}),
        get(MODELS + "/${model}/artifacts/directories"),
        get(API + "artifacts/list", {"run_id": "${run}"}),
    ),
)

CASES = (THE_PROXY, OF_RUNS, UPLOAD, NOT_FOR_A_FOLDER, OF_MODELS)
