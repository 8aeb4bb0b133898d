"""Page tokens: what they hold, and that nobody but the server can write or move one."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import InvalidParameterValue
from projections.page_tokens import (
    PageQuery,
    Position,
    page_of_sorted,
    read_page_token,
    write_page_token,
)

SECRET = b"a secret of the server"
QUERY = PageQuery("runs/search", "ada", (["0", "1"], "metrics.a > 1", [], "ACTIVE_ONLY"))

positions = st.lists(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    max_size=6,
).map(tuple)


@given(positions)
def test_a_token_brings_its_position_back(position: Position) -> None:
    """What was put into a token comes out of it, infinities and any text included."""
    assert read_page_token(SECRET, QUERY, write_page_token(SECRET, QUERY, position)) == position


def test_no_token_is_no_position() -> None:
    """An absent or empty token asks for the first page."""
    assert read_page_token(SECRET, QUERY, None) is None
    assert read_page_token(SECRET, QUERY, "") is None


@pytest.mark.parametrize(
    "other",
    [
        PageQuery("experiments/search", QUERY.user, QUERY.parts),
        PageQuery(QUERY.endpoint, "eve", QUERY.parts),
        PageQuery(QUERY.endpoint, QUERY.user, (["0"], *QUERY.parts[1:])),
        PageQuery(QUERY.endpoint, QUERY.user, (*QUERY.parts[:-1], "ALL")),
    ],
)
def test_a_token_of_another_query_is_refused(other: PageQuery) -> None:
    """Endpoint, user, ids and view type: a token goes with one query only."""
    token = write_page_token(SECRET, QUERY, (0, 1.5, "id"))
    with pytest.raises(InvalidParameterValue, match="another query"):
        read_page_token(SECRET, other, token)


def test_a_token_of_another_server_is_refused() -> None:
    """A signature made with another secret is worth nothing."""
    token = write_page_token(b"another secret", QUERY, (1,))
    with pytest.raises(InvalidParameterValue, match="did not write it"):
        read_page_token(SECRET, QUERY, token)


def test_every_changed_byte_is_noticed() -> None:
    """No byte of a token can be changed, dropped or added."""
    raw = base64.urlsafe_b64decode(write_page_token(SECRET, QUERY, (3, "abc")) + "==")
    changed = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    for forged in [*changed, raw[:-1], raw + b"0"]:
        with pytest.raises(InvalidParameterValue):
            read_page_token(SECRET, QUERY, base64.urlsafe_b64encode(forged).decode())


@pytest.mark.parametrize(
    "token",
    ["x", "!!!!", "é", "W10=", "eyJvZmZzZXQiOiAxfQ==", "A" * 40_000, "A" * 60, "\0", "-_-_"],
)
def test_malformed_tokens_are_refused(token: str) -> None:
    """L-89: no base64, no JSON, MLflow's own tokens, far too long ones: all are bad values."""
    with pytest.raises(InvalidParameterValue, match="Invalid page token"):
        read_page_token(SECRET, QUERY, token)


@given(st.text())
def test_no_text_breaks_the_reader(token: str) -> None:
    """Whatever a client sends is a position, no position, or a bad value."""
    if token:
        with pytest.raises(InvalidParameterValue):
            read_page_token(SECRET, QUERY, token)


@given(st.sets(st.tuples(st.integers(0, 9), st.text(max_size=2))), st.integers(1, 5))
def test_pages_of_a_sorted_list_join_to_the_list(rows: set[tuple[int, str]], limit: int) -> None:
    """Page after page gives every row once, in order."""
    ordered = sorted(rows)
    found: list[tuple[int, str]] = []
    after: Position | None = None
    while True:
        page, after = page_of_sorted(ordered, lambda row: row, limit, after)
        found += page
        if after is None:
            break
        assert len(page) == limit
    assert found == ordered


def test_a_sorted_list_goes_on_where_it_stopped() -> None:
    """Rows that came before the position meanwhile, or went, hide and repeat nothing behind it."""
    _, after = page_of_sorted(["b", "d", "f"], lambda row: (row,), 2, None)
    assert after == ("d",)
    assert page_of_sorted(["a", "b", "c", "e", "f"], lambda row: (row,), 9, after)[0] == ["e", "f"]
