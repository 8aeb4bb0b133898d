"""The bodies and queries that clients send, decoded."""

import json
import math
import time
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from api.requests import (
    Double,
    Int32,
    Int64,
    RequiredText,
    RunId,
    choices,
    decode_body,
    decode_body_exactly,
    decode_query,
)
from api.requests import _quick_decoder as quick_decoder
from events.errors import InvalidParameterValue


class Metric(Struct, gc=False):
    key: RequiredText
    value: Double
    timestamp: Int64
    step: Int64 | None = None
    model_id: str | None = None


class Param(Struct):
    key: RequiredText
    value: str | None = None


class LogBatch(Struct):
    run_id: RunId
    metrics: list[Metric] = []
    params: list[Param] = []
    names: list[str] = []
    is_last: bool | None = None


class Search(Struct):
    experiment_ids: list[str] = []
    max_results: Int32 | None = None
    view: Annotated[str, choices(ACTIVE_ONLY=1, ALL=3)] | None = None
    newest_first: bool | None = None


def outcome(decoder: Any, body: bytes) -> Any:
    """What came out, or the message of the refusal; NaN made comparable."""
    try:
        return repr(decoder(body, LogBatch))
    except InvalidParameterValue as error:
        return error.message


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**63 - 1, 2**63, -(2**63), 10**400, "5", "NaN", "nan", "1.5"])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
FIELD_NAMES = st.sampled_from(
    ["run_id", "run_uuid", "runId", "metrics", "params", "names", "is_last", "isLast", "other"]
)
METRIC_NAMES = st.sampled_from(["key", "value", "timestamp", "step", "model_id", "modelId", "x"])


def written(members: list[tuple[str, str]], space: str = "") -> str:
    """A JSON object of members whose values are JSON already; a name may come twice."""
    return "{" + f",{space}".join(f"{json.dumps(name)}:{value}" for name, value in members) + "}"


def documents(ascii_only: st.SearchStrategy[bool]) -> st.SearchStrategy[bytes]:
    """Bodies that are nearly right, written by hand so that names can come twice."""
    value = st.builds(lambda v, a: json.dumps(v, ensure_ascii=a), JSON_VALUES, ascii_only)
    metric = st.builds(
        lambda extra: written([("key", '"loss"'), ("value", "0.5"), ("timestamp", "17"), *extra]),
        st.lists(st.tuples(METRIC_NAMES, value), max_size=2),
    ) | st.builds(written, st.lists(st.tuples(METRIC_NAMES, value), max_size=5))
    listing = st.builds(lambda items: "[" + ",".join(items) + "]", st.lists(metric, max_size=3))
    member = (
        st.tuples(FIELD_NAMES, value)
        | st.tuples(st.just("metrics"), listing)
        | st.tuples(st.sampled_from(["params", "names"]), listing)
    )
    return st.builds(
        lambda extra, space: written([("run_id", '"r1"'), *extra], space).encode(
            errors="surrogatepass"
        ),
        st.lists(member, max_size=3),
        st.sampled_from(["", " ", "\n", "\x0b"]),
    )


@given(documents(st.booleans()))
@settings(max_examples=600, deadline=None)
@example(b'{"run_id":"a","run_id":"b"}')
@example(b'{"run_id":"a","metrics":[{"key":"k","value":1,"timestamp":1,"step":null,"step":2}]}')
@example(b'{"run_id":"a","names":["\x01"]}')
@example(b'{"run_id":"a","names":["\xed\xa0\x80"]}')
@example(b'{"run_id":"a","metrics":[{"key":"k","value":-0,"timestamp":-0}]}')
def test_fast_path_equals_exact_path(body: bytes) -> None:
    """Whatever is sent, the fast path gives what the exact path gives, or leaves it to that."""
    assert outcome(decode_body, body) == outcome(decode_body_exactly, body)


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    """Any bytes at all are decoded or refused with INVALID_PARAMETER_VALUE, on both paths."""
    assert outcome(decode_body, body) == outcome(decode_body_exactly, body)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**80), 2**80))
@settings(deadline=None)
def test_numbers_are_read_exactly(value: float) -> None:
    """A double is the nearest one to what was written, on both paths."""
    body = json.dumps(
        {"run_id": "r", "metrics": [{"key": "k", "value": value, "timestamp": 1}]}
    ).encode()
    for decoder in (decode_body, decode_body_exactly):
        assert decoder(body, LogBatch).metrics[0].value == float(value)


def test_plain_batches_take_the_fast_path() -> None:
    """What MLflow's client sends for a batch of metrics and params needs no exact decoding."""
    quick = quick_decoder(LogBatch)
    assert quick is not None
    body = {
        "run_id": "r",
        "metrics": [{"key": "é", "value": 0.5, "timestamp": 5, "step": i} for i in range(3)],
        "params": [{"key": "p", "value": "v"}, {"key": "empty"}],
        "names": ["a", "b"],
        "is_last": True,
    }
    assert quick(json.dumps(body, ensure_ascii=False).encode()) is not None
    body["metrics"][0]["model_id"] = "m-1"  # type: ignore[index]
    assert quick(json.dumps(body, ensure_ascii=False).encode()) is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1.0),
        ('"1.5"', 1.5),
        ('"-Infinity"', -math.inf),
        ("Infinity", math.inf),
        ('"1e5"', 1e5),
        ("1e-400", 0.0),
    ],
)
def test_metric_values_as_clients_write_them(value: str, expected: float) -> None:
    """L-30: numbers, texts of numbers and the three named values are taken."""
    assert metric_of(value=value).value == expected


@pytest.mark.parametrize("value", ["NaN", '"NaN"'])
def test_nan_is_taken(value: str) -> None:
    """L-30: NaN is taken bare and as a text."""
    assert math.isnan(metric_of(value=value).value)


@pytest.mark.parametrize(
    "value", ['"nan"', '"inf"', "true", "1e400", "-1e400", "9" * 400, "9" * 5000, '"1e400"', "[]"]
)
def test_metric_values_that_mlflow_would_damage_are_refused(value: str) -> None:
    """L-32, L-33: what would be stored as another number is refused."""
    with pytest.raises(InvalidParameterValue):
        metric_of(value=value)


@pytest.mark.parametrize("value", ["null", '""'])
def test_missing_metric_values_are_refused(value: str) -> None:
    """L-33: null and the empty text are no values."""
    with pytest.raises(InvalidParameterValue):
        metric_of(value=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [('"5"', 5), ("0", 0), ("1.0", 1), (str(2**63 - 1), 2**63 - 1), (str(-(2**63)), -(2**63))],
)
def test_integers_as_clients_write_them(value: str, expected: int) -> None:
    """L-34, L-36: integers come as numbers, as texts, and as 1.0."""
    assert metric_of(timestamp=value).timestamp == expected


@pytest.mark.parametrize("value", ["1.5", str(2**63), "true", '"x"', '" 5"', "{}", '"1.0"'])
def test_integers_that_mlflow_would_damage_are_refused(value: str) -> None:
    """L-35, L-37: what does not fit 64 bits or is no integer is refused."""
    with pytest.raises(InvalidParameterValue, match=r"metrics\[0\]\.timestamp"):
        metric_of(timestamp=value)


def metric_of(**members: str) -> Metric:
    """The metric that is decoded from a batch of one with these JSON values."""
    parts = {"key": '"k"', "value": "1", "timestamp": "1", **members}
    body = '{"run_id":"r","metrics":[' + written(list(parts.items())) + "]}"
    return decode_body(body.encode(), LogBatch).metrics[0]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "run_id"),
        (b"{", "run_id"),
        (b"null", "run_id"),
        (b"{}", "run_id"),
        (b'{"run_id":""}', "run_id"),
        (b'{"run_id":null}', "run_id"),
        (b'{"runId":"r"}', "run_id"),
        (b'{"run_id":"r","metrics":[{"value":1,"timestamp":1}]}', "metrics[0].key"),
        (b'{"run_id":"r","metrics":[{"key":"","value":1,"timestamp":1}]}', "metrics[0].key"),
        (b'{"run_id":"r","params":[{"key":"a"},{}]}', "params[1].key"),
    ],
)
def test_missing_parameters_are_named_by_their_path(body: bytes, path: str) -> None:
    """L-04, L-49: the message says which parameter is missing; no body is an empty object."""
    with pytest.raises(InvalidParameterValue) as refused:
        decode_body(body, LogBatch)
    assert refused.value.message.startswith(f"Missing value for required parameter '{path}'.")


@pytest.mark.parametrize(
    "body",
    [
        b'{"run_id":"a","run_id":"a"}',
        b'{"run_id":"a","x":{"y":1,"y":2}}',
        b'{"run_id":"\xff"}',
        '{"run_id":"a"}'.encode("utf-16"),
        '{"run_id":"a"}'.encode("utf-16-le"),
        b'{"run_id":"\\ud800"}',
        b'{"run_id":"a","is_last":true,"isLast":true}',
        b'{"run_id":"a","runId":"a"}',
        b'{"run_id":"a","metrics":"x"}',
        b'{"run_id":"a","metrics":[null]}',
        b'{"run_id":"a","names":[1]}',
        b'{"run_id":7}',
        b"[]",
        b"7",
        b'"\\"x\\""',
        b"[" * 100_000,
    ],
)
def test_ambiguous_and_broken_bodies_are_refused(body: bytes) -> None:
    """2.5: repeated keys, both spellings of a name, bad encodings and wrong types are refused."""
    with pytest.raises(InvalidParameterValue):
        decode_body(body, LogBatch)


@pytest.mark.parametrize(
    "body",
    [
        b'{"run_id":"r"}',
        b'\xef\xbb\xbf{"run_id":"r"}',
        b'"{\\"run_id\\":\\"r\\"}"',
        b'{"run_uuid":"r"}',
        b'{"run_id":null,"run_uuid":"r"}',
        b'{"run_id":"r","run_uuid":"other"}',
        b'{"run_id":"r","unknown":[{"a":null}]}',
        b'{"run_id":"\\u0072"}',
    ],
)
def test_what_old_clients_send_is_understood(body: bytes) -> None:
    """2.5, L-50: JSON encoded twice, `run_uuid`, unknown fields and escapes are taken."""
    assert decode_body(body, LogBatch).run_id == "r"


@pytest.mark.parametrize(
    "body",
    [
        b'{"run_id":"r",' + b",".join(b'"%d":1' % i for i in range(150_000)) + b',"1":2}',
        b'{"run_id":"r","metrics":[' + b"{}," * 400_000 + b"{}]}",
        b'{"run_id":"r","other":' + b'[{"a":' * 200_000 + b"}",
        b'{"run_id":' + b"9" * 1_900_000 + b"}",
        b'{"run_id":"r","metrics":[{"key":"k","timestamp":1,"value":0.' + b"1" * 1_900_000,
        b'{"run_id":["' + b"x" * 1_900_000 + b'"]}',
        b'"' + b'\\"' * 400_000 + b'"',
    ],
    ids=["repeated", "items", "nested", "digits", "fraction", "long", "escapes"],
)
def test_hostile_bodies_are_refused_quickly(body: bytes) -> None:
    """No body within the bound keeps the server busy: each is refused in well under a second."""
    start_s = time.perf_counter()
    with pytest.raises(InvalidParameterValue) as refused:
        decode_body(body, LogBatch)
    assert time.perf_counter() - start_s < 1.0
    assert len(refused.value.message) < 1_000


def test_choices_by_name_and_number() -> None:
    """An enumeration comes by name or number and is held by name; anything else is refused."""
    for sent in (b'{"view":"ALL"}', b'{"view":3}', b'{"view":"3"}'):
        assert decode_body(sent, Search).view == "ALL"
    for sent in (b'{"view":"BOGUS"}', b'{"view":99}', b'{"view":true}', b'{"view":["ALL"]}'):
        with pytest.raises(InvalidParameterValue):
            decode_body(sent, Search)


def test_query_parameters() -> None:
    """A repeated query parameter is a list; numbers and booleans are read from their text."""
    found = decode_query(
        [
            ("experiment_ids", "1"),
            ("experiment_ids", "2"),
            ("max_results", "7"),
            ("newest_first", "True"),
            ("unknown", "x"),
        ],
        Search,
    )
    assert found == Search(experiment_ids=["1", "2"], max_results=7, newest_first=True)
    for bad in (("max_results", "abc"), ("max_results", str(2**31)), ("newest_first", "yes")):
        with pytest.raises(InvalidParameterValue):
            decode_query([bad], Search)
