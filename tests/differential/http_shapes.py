"""HTTP as such: content types, broken bodies, encodings, verbs, addresses, old clients."""

import gzip

from tests.differential.calls import (
    AJAX,
    API,
    SETUP,
    Call,
    Case,
    Ours,
    get,
    json_call,
    on_run,
    post,
    raw_post,
    refused,
)

TAG = b'{"run_id": "${run}", "key": "k", "value": "v"}'

CONTENT_TYPES = on_run(
    "http-content-types",
    raw_post("runs/set-tag", TAG, "application/json"),
    raw_post("runs/set-tag", TAG, "application/json; charset=utf-8"),
    raw_post("runs/set-tag", TAG, "application/json;charset=UTF-8"),
    raw_post("runs/set-tag", TAG, "APPLICATION/JSON").or_else(Ours("http-content-type", 200)),
    raw_post("runs/set-tag", TAG, "text/plain"),
    raw_post("runs/set-tag", TAG, "application/x-www-form-urlencoded"),
    raw_post("runs/set-tag", TAG, "multipart/form-data; boundary=x"),
    raw_post("runs/set-tag", TAG, "application/json-patch+json"),
    raw_post("runs/set-tag", TAG, ""),
    raw_post("runs/set-tag", TAG, None),
    raw_post("runs/set-tag", TAG, "text/plain, application/json"),
    Call(
        "GET",
        API + "runs/get",
        query=(("run_id", "${run}"),),
        headers={"Content-Type": "text/plain"},
    ),
    Call("POST", API + "runs/search"),
    Call(
        "PATCH", API + "logged-models/${nothing}", raw=b"{}", headers={"Content-Type": "text/plain"}
    ),
)

BODIES = on_run(
    "http-bodies",
    raw_post("runs/set-tag", b""),
    raw_post("runs/set-tag", b"{"),
    raw_post("runs/set-tag", b"not json"),
    raw_post("runs/set-tag", b"null"),
    raw_post("runs/set-tag", b"{}"),
    raw_post("runs/set-tag", TAG + b" trailing"),
    raw_post("runs/set-tag", b"\xff\xfe{}"),
    raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "k", "value": "\xff"}'),
    raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "\\ud800", "value": "v"}'),
    raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "pair", "value": "\\ud83d\\ude80"}'),
    raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "k", "value": "v", "extra": [1, {}]}'),
    raw_post("runs/set-tag", b'{"run_id": null, "key": "k", "value": "v"}'),
    raw_post("runs/set-tag", b'{"run_id": 5, "key": "k", "value": "v"}'),
    raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "k", "value": {"a": 1}}'),
    raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "k", "value": true}'),
    raw_post("runs/set-tag", b"\xef\xbb\xbf" + TAG),
    raw_post("experiments/search", b"").or_else(Ours("L-81", 200)),
    raw_post("runs/log-batch", b""),
    raw_post("runs/log-batch", b"[]"),
    raw_post("runs/set-tag", b"[]"),
    raw_post("runs/set-tag", b"5"),
    raw_post("runs/set-tag", b"true"),
)

DOUBLE = b'"{\\"run_id\\": \\"${run}\\", \\"key\\": \\"double\\", \\"value\\": \\"v\\"}"'

ENCODINGS = on_run(
    "http-double-encoded",
    raw_post("runs/set-tag", DOUBLE),
    raw_post("runs/set-tag", b'"{}"'),
    raw_post("runs/set-tag", b'"not json"'),
    raw_post("runs/set-tag", b'""'),
)

REFUSED_HERE = Case(
    "http-refused-here",
    (
        *SETUP,
        raw_post(
            "runs/set-tag", b'{"run_id": "${run}", "key": "a", "key": "b", "value": "v"}'
        ).or_else(refused("http-duplicate-keys")),
        raw_post(
            "experiments/search", '{"max_results": 1}'.encode("utf-16"), status_only=True
        ).or_else(refused("http-utf-16")),
        raw_post("runs/set-tag", b'{"run_id": "${run}", "key": "k", "value": "\\ud800"}').or_else(
            refused("http-surrogate")
        ),
    ),
)

COMPRESSED = Case(
    "http-gzip",
    (
        *SETUP,
        Call(
            "POST",
            API + "runs/set-tag",
            raw=gzip.compress(b"{}", mtime=0),
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ),
        Call(
            "POST",
            API + "runs/set-tag",
            raw=TAG,
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ).or_else(refused("http-gzip")),
    ),
)

ADDRESSES = Case(
    "http-addresses",
    (
        *SETUP,
        get("/nope"),
        get("nope"),
        get("runs/"),
        get("/api/1.0/mlflow/runs/get"),
        get("/api/2.0/preview/mlflow/runs/get", {"run_id": "${run}"}),
        get("runs/get/", {"run_id": "${run}"}),
        get("runs/create"),
        post("runs/get"),
        json_call("PUT", API + "runs/create", {}),
        json_call("DELETE", API + "runs/search", {}),
        json_call("PATCH", API + "experiments/create", {}),
        Call("GET", "/health"),
        Call("GET", "/version"),
        Call("HEAD", "/health"),
        Call("HEAD", API + "runs/get", query=(("run_id", "${run}"),)).or_else(
            Ours("http-head", 200)
        ),
        Call("GET", "/api/3.0/mlflow/server-info", status_only=True),
        Call("GET", "/ajax-api/3.0/mlflow/server-info", status_only=True),
        Call("GET", "/", status_only=True),
    ),
)

GET_FORMS = on_run(
    "http-get-forms",
    get("runs/get", [("run_id", "${run}"), ("run_id", "${nothing}")]),
    get("runs/get", [("run_id", "${run}"), ("unknown", "1")]),
    get("runs/get", [("runId", "${run}")]),
    Call("GET", API + "runs/get?run_id=${run}&"),
    Call("GET", API + "runs/get?"),
    Call(
        "GET",
        API + "runs/get",
        raw=b'{"run_id": "${run}"}',
        headers={"Content-Type": "application/json"},
    ),
    Call("GET", API + "runs/get", raw=b'{"run_id": "${run}"}'),
    get(
        "experiments/search",
        {"max_results": "1.5", "filter": "name = '${unique}'"},
        status_only=True,
    ),
    get(
        "experiments/search", {"max_results": "", "filter": "name = '${unique}'"}, status_only=True
    ),
    get(
        "experiments/search", {"max_results": "5", "view_type": "2", "filter": "name = '${unique}'"}
    ),
    get(
        "experiments/search",
        {"max_results": "5", "view_type": "DELETED_ONLY", "filter": "name = '${unique}'"},
    ),
    get("experiments/search", {"max_results": "5", "order_by": "", "filter": "name = '${unique}'"}),
    get(
        "metrics/get-history",
        {"run_id": "${run}", "metric_key": "m", "max_results": ""},
        status_only=True,
    ),
    get("metrics/get-history", {"run_id": "${run}", "metric_key": "a b/ü"}),
    get("artifacts/list", {"run_id": "${run}", "page_token": "x"}),
)

NUMBERS = on_run(
    "http-int64-as-text",
    post(
        "runs/create",
        {"experiment_id": "${exp}", "start_time": "1500"},
        save={"text": "run.info.run_id"},
    ),
    get("runs/get", {"run_id": "${text}"}),
    post("runs/update", {"run_id": "${run}", "end_time": "1600", "status": 3}),
    post(
        "runs/log-metric",
        {"run_id": "${run}", "key": "m", "value": "0.5", "timestamp": "10", "step": "3"},
    ),
    post(
        "runs/log-batch",
        {
            "run_id": "${run}",
            "metrics": [{"key": "b", "value": "1", "timestamp": "1", "step": "2"}],
        },
    ),
    post("runs/search", {"experiment_ids": ["${exp}"], "max_results": "10", "run_view_type": "1"}),
    get(AJAX + "metrics/get-history", {"run_id": "${run}", "metric_key": "b"}),
)


def from_page(origin: str, method: str = "POST") -> Call:
    """A request as a browser sends it for a page of that site."""
    headers = {"Content-Type": "application/json", "Origin": origin}
    if method == "GET":
        return get("runs/get", {"run_id": "${run}"}, headers=headers)
    return post("runs/set-tag", {**TAGGED, "value": origin}, headers=headers)


def to_name(host: str, path: str = "runs/get") -> Call:
    """A request to this server under another name, as after a DNS rebinding."""
    return get(path, {"run_id": "${run}"}, headers={"Host": host})


TAGGED = {"run_id": "${run}", "key": "k"}

OTHER_SITES = on_run(
    "http-other-sites",
    from_page("http://evil.example"),
    from_page("https://evil.example:8443"),
    from_page("null"),
    from_page("http://localhost:3000"),
    from_page("http://127.0.0.1:3000"),
    from_page("http://evil.example", "GET"),
    to_name("evil.example"),
    to_name("localhost"),
    to_name("localhost:5000"),
    to_name("192.168.1.7:5000"),
    to_name("10.0.0.1"),
    to_name("172.20.0.3:80"),
    to_name("8.8.8.8"),
    to_name("localhost.evil.example"),
    to_name("[::1]:5000"),
    to_name("evil.example", "/health"),
    to_name("evil.example", "/version"),
    to_name("evil.example", "/get-artifact"),
    to_name("evil.example", "/api/2.0/mlflow-artifacts/artifacts"),
)

CASES = (
    CONTENT_TYPES,
    OTHER_SITES,
    BODIES,
    ENCODINGS,
    REFUSED_HERE,
    COMPRESSED,
    ADDRESSES,
    GET_FORMS,
    NUMBERS,
)
