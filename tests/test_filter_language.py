"""The filter language: what it reads is what mlflow's own parser reads, but for a list of reasons.

`filter_cases.py` has the filters and the reasons, `mlflow_search.py` mlflow's parser.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import InvalidParameterValue
from projections.filter_language import (
    CLAUSES_MAX,
    EXPERIMENTS,
    FILTER_BYTES_MAX,
    LISTED_VALUES_MAX,
    LOGGED_MODELS,
    ORDER_BY_MAX,
    RUNS,
    Clause,
    Language,
    OrderBy,
    parse_filter,
    parse_logged_model_order_by,
    parse_order_by,
)
from tests.filter_cases import DIFFERENCES, EXPERIMENT_FILTERS, MODEL_FILTERS, RUN_FILTERS
from tests.mlflow_search import (
    MlflowException,
    mlflow_experiment_order,
    mlflow_experiments,
    mlflow_model_order,
    mlflow_models,
    mlflow_run_order,
    mlflow_runs,
)
from tests.order_cases import EXPERIMENT_ORDERS, MODEL_ORDERS, ORDER_DIFFERENCES, RUN_ORDERS

REFUSED = "refused"
FAILED = "failed"
LANGUAGES = {"runs": RUNS, "experiments": EXPERIMENTS, "logged models": LOGGED_MODELS}


MLFLOW: dict[str, Callable[[str], list[Clause]]] = {
    "runs": mlflow_runs,
    "experiments": mlflow_experiments,
    "logged models": mlflow_models,
}


def outcome(read: Callable[..., Any], *arguments: object) -> Any:
    """What was read, or that it was refused, or that the reader broke down."""
    try:
        return list(read(*arguments))
    except (MlflowException, InvalidParameterValue):
        return REFUSED
    except Exception:
        return FAILED


FILTERS = [
    *(("runs", text) for text in RUN_FILTERS),
    *(("experiments", text) for text in EXPERIMENT_FILTERS),
    *(("logged models", text) for text in MODEL_FILTERS),
]


@pytest.mark.parametrize(("entities", "text"), FILTERS)
def test_a_filter_means_what_it_means_to_mlflow(entities: str, text: str) -> None:
    """The same filters are refused, and the others mean the same; differences are on the list."""
    ours = outcome(parse_filter, LANGUAGES[entities], text)
    theirs = outcome(MLFLOW[entities], text)
    assert ours != FAILED
    if (entities, text) in DIFFERENCES:
        assert ours != theirs, "they agree: take it off the list of differences"
    else:
        assert ours == theirs


def test_the_tables_are_large_and_the_differences_are_in_them() -> None:
    """Every listed difference is a tried filter, and most filters are no difference."""
    assert len(FILTERS) >= 250
    assert set(DIFFERENCES) <= set(FILTERS)
    assert len(DIFFERENCES) * 5 < len(FILTERS)


ORDERS: list[tuple[str, Language, Callable[[str], list[OrderBy]], str]] = [
    *(("runs", RUNS, mlflow_run_order, text) for text in RUN_ORDERS),
    *(("experiments", EXPERIMENTS, mlflow_experiment_order, text) for text in EXPERIMENT_ORDERS),
]


@pytest.mark.parametrize(("entities", "language", "mlflow", "text"), ORDERS)
def test_an_order_means_what_it_means_to_mlflow(
    entities: str, language: Language, mlflow: Callable[[str], list[OrderBy]], text: str
) -> None:
    """The same orders are refused, and the others sort by the same; differences are on the list."""
    ours = outcome(parse_order_by, language, [text])
    theirs = outcome(mlflow, text)
    assert ours != FAILED
    if (entities, text) in ORDER_DIFFERENCES:
        assert ours != theirs, "they agree: take it off the list of differences"
    else:
        assert ours == theirs


@pytest.mark.parametrize("item", MODEL_ORDERS)
def test_an_order_of_logged_models_means_what_it_means_to_mlflow(item: dict[str, object]) -> None:
    """The objects that order logged models are read alike."""
    ours = outcome(parse_logged_model_order_by, [item])
    assert ours != FAILED
    assert ours == outcome(mlflow_model_order, item)


_KEYS = st.sampled_from(
    ["a", "val_loss", "a.b", "_x", "`a b`", '"a b"', "`a/b-c:d`", "`a.b`", "'q r'", "é", "Ab9"]
)
_TEXTS = st.sampled_from(
    ["'x'", '"x"', "''", "'it''s'", '"it\'s"', "'%x_'", "'AND'", "' '", "'日本'", "'a=1'", "x", "1"]
)
_NUMBERS = st.sampled_from(["1", "-1", "1.5", "-.5", "2.", "1e3", "-2E-3", "007", "'1'", "x"])
_LISTS = st.lists(_TEXTS, max_size=3).map(lambda items: f"({', '.join(items)})")
_SYMBOLS = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "==", "<>"])
_WORDS = st.sampled_from(["LIKE", "ILIKE", "like", "iLike", "IN", "NOT IN", "not in", "RLIKE"])
_NULLS = st.sampled_from(["IS NULL", "IS NOT NULL", "is null", "Is Not Null", "IS", "NOT NULL"])
_PREFIXES = st.sampled_from(
    [
        "metrics",
        "metric",
        "params",
        "parameter",
        "tags",
        "tag",
        "attributes",
        "attr",
        "run",
        "attribute",
        "dataset",
        "datasets",
        "`params`",
        "Metrics",
        "model",
    ]
)
_ATTRIBUTES = st.sampled_from(
    [
        "run_id",
        "run_name",
        "status",
        "start_time",
        "end_time",
        "user_id",
        "artifact_uri",
        "created",
        "`Run~name`",
        "name",
        "experiment_id",
        "creation_time",
        "last_update_time",
        "digest",
        "context",
        "model_id",
        "model_type",
        "creation_timestamp",
        "`start_time`",
        '"status"',
    ]
)


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    """One comparison, right or wrong, of pieces that both parsers know how to take."""
    prefix = draw(st.none() | _PREFIXES)
    key = draw(_KEYS | _ATTRIBUTES) if prefix else draw(_ATTRIBUTES)
    left = (f"{prefix}.{key}" if prefix else key).replace("~", " ")
    space = draw(st.sampled_from([" ", "  ", "\n", "\t"]))
    form = draw(st.integers(0, 3))
    if form == 0:
        return f"{left}{space}{draw(_NULLS)}"
    if form == 1:
        return f"{left}{space}{draw(_WORDS)}{space}{draw(_LISTS | _TEXTS)}"
    symbol = draw(_SYMBOLS)
    value = draw(_NUMBERS if form == 2 else _TEXTS)
    return f"{left}{space}{symbol}{space}{value}"


_GLUE = st.sampled_from([" AND ", " and ", "\nAND\n", " AND AND ", " OR ", ", "])


@st.composite
def filters(draw: st.DrawFn) -> str:
    """Comparisons joined by AND most often, by other things now and then."""
    text = draw(comparisons())
    for _ in range(draw(st.integers(0, 2))):
        text += draw(_GLUE) + draw(comparisons())
    return text + draw(st.sampled_from(["", "", " AND", " OR", ";"]))


def excused(entities: str, text: str, theirs: Any) -> bool:
    """Whether a made-up filter falls under one of the differences in `filter_cases.py`."""
    if isinstance(theirs, str) and entities == "runs":
        return theirs == FAILED
    if theirs == FAILED:
        return True
    if entities == "experiments":
        # Words in small letters, and backticks around a prefix.
        return "like" in text or "iLike" in text or "not in" in text or "`params`" in text
    if entities == "logged models":
        # Quotes around keys, lists of other things than texts, names that its documentation has.
        return (
            '"' in text
            or "'q r'" in text
            or "(" in text
            or "`creation_time" in text
            or "created" in text
        )
    # One form of value for one comparator.
    return any(isinstance(c.value, tuple) and c.comparator not in ("IN", "NOT IN") for c in theirs)


@pytest.mark.parametrize("entities", list(LANGUAGES))
@settings(max_examples=400, deadline=None)
@given(text=filters())
def test_made_up_filters_mean_what_they_mean_to_mlflow(entities: str, text: str) -> None:
    """Whatever is put together of the language's pieces is refused or read alike."""
    ours = outcome(parse_filter, LANGUAGES[entities], text)
    theirs = outcome(MLFLOW[entities], text)
    assert ours != FAILED
    if ours != theirs:
        assert excused(entities, text, theirs)


@pytest.mark.parametrize("entities", list(LANGUAGES))
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(), max_size=60))
def test_no_text_breaks_the_parser(entities: str, text: str) -> None:
    """Whatever a client sends as filter or order is read or refused, never a failure."""
    assert outcome(parse_filter, LANGUAGES[entities], text) != FAILED
    assert outcome(parse_order_by, LANGUAGES[entities], [text]) != FAILED


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(RUN_FILTERS), st.integers(0, 60), st.characters())
def test_no_changed_filter_breaks_the_parser(text: str, at: int, character: str) -> None:
    """A filter with one character changed is read or refused."""
    assert outcome(parse_filter, RUNS, text[:at] + character + text[at + 1 :]) != FAILED


def test_so_many_comparisons_and_no_more() -> None:
    """L-90: fifty comparisons are read, one more is refused."""
    comparison = "metrics.a > 1"
    assert len(parse_filter(RUNS, " AND ".join([comparison] * CLAUSES_MAX))) == CLAUSES_MAX
    with pytest.raises(InvalidParameterValue, match=str(CLAUSES_MAX)):
        parse_filter(RUNS, " AND ".join([comparison] * (CLAUSES_MAX + 1)))


def test_so_long_and_no_longer() -> None:
    """L-90: a filter of 8 kB is read, one byte more is refused; bytes, not characters."""
    rest = FILTER_BYTES_MAX - len("params.a = ''")
    assert parse_filter(RUNS, f"params.a = '{'x' * rest}'")
    with pytest.raises(InvalidParameterValue, match=str(FILTER_BYTES_MAX)):
        parse_filter(RUNS, f"params.a = '{'x' * (rest + 1)}'")
    with pytest.raises(InvalidParameterValue, match=str(FILTER_BYTES_MAX)):
        parse_filter(RUNS, f"params.a = '{'é' * (rest // 2 + 1)}'")


def test_so_many_values_in_lists_and_no_more() -> None:
    """L-90: a thousand run ids are read, though longer than 8 kB; one more is refused."""
    ids = ", ".join([f"'{number:032x}'" for number in range(LISTED_VALUES_MAX)])
    (clause,) = parse_filter(RUNS, f"run_id IN ({ids})")
    assert isinstance(clause.value, tuple)
    assert len(clause.value) == LISTED_VALUES_MAX
    with pytest.raises(InvalidParameterValue, match=str(LISTED_VALUES_MAX)):
        parse_filter(RUNS, f"run_id IN ({ids}, 'one more')")
    with pytest.raises(InvalidParameterValue, match="together"):
        parse_filter(RUNS, f"run_id IN ({ids}) AND dataset.name IN ('one more')")


def test_so_many_keys_to_sort_by_and_no_more() -> None:
    """An order has at most twenty keys; that of runs names none of them twice, as in MLflow."""
    keys = [f"metrics.m{number}" for number in range(ORDER_BY_MAX)]
    assert len(parse_order_by(RUNS, keys)) == ORDER_BY_MAX
    with pytest.raises(InvalidParameterValue, match=str(ORDER_BY_MAX)):
        parse_order_by(RUNS, [*keys, "start_time"])
    with pytest.raises(InvalidParameterValue, match="more than once"):
        parse_order_by(RUNS, ["created", "start_time DESC"])
    assert len(parse_order_by(EXPERIMENTS, ["name", "name DESC"])) == 2
    with pytest.raises(InvalidParameterValue, match=str(ORDER_BY_MAX)):
        parse_logged_model_order_by([{"field_name": "name"}] * (ORDER_BY_MAX + 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metrics.a > 'x'", "number without quotes"),
        ("metrics.a LIKE 1", "allowed are =, !=, <, <=, >, >="),
        ("params.a = x", "between quotes"),
        ("params.a > 'x'", "IS NOT NULL"),
        ("foo = 'x'", "run_id, run_name, user_id"),
        ("foo.a = 'x'", "attribute, attributes"),
        ("dataset.source = 'x'", "name, digest, context"),
        ("metrics.a-b > 1", "found '-b > 1'"),
        ("metrics.a > 1 OR metrics.b > 1", "AND only"),
        ("metrics.a > 1 AND NOT metrics.b > 1", "AND only"),
        ("(metrics.a > 1)", "Expected a field"),
        ("metrics.", "between backticks"),
        ("metrics.a >", "at the end"),
        ("run_id IN ()", "must not be empty"),
        ("run_id IN ('a' 'b')", "Expected ','"),
        ("run_id IN 'a'", "a list in parentheses"),
        ("params.a = '\0'", "NUL"),
        ("params.a = '\ud800'", "surrogate"),
    ],
)
def test_a_refusal_says_what_was_wrong(text: str, says: str) -> None:
    """The message of a refusal names the mistake, or what is allowed in its place."""
    with pytest.raises(InvalidParameterValue) as refusal:
        parse_filter(RUNS, text)
    assert says in refusal.value.message


@pytest.mark.parametrize(
    "hostile",
    [
        "'" * 200_000,
        "(" * 200_000,
        "metrics." * 30_000,
        "`" * 199_999,
        "a.\"'`" * 40_000,
        "AND " * 60_000,
        "params.a = '" + "\\'" * 100_000,
        "metrics.a > " + "9" * 200_000,
        "run_id IN (" + "'a'," * 60_000,
        " " * 250_000,
        "metrics.a > 1e" + "9" * 200_000,
    ],
)
def test_a_hostile_filter_costs_little(hostile: str) -> None:
    """The longest text that is looked at takes a moment, whatever it is made of."""
    start = time.monotonic()
    assert outcome(parse_filter, RUNS, hostile) != FAILED
    assert time.monotonic() - start < 2
