"""Blocks of points: what is written comes back, old bytes decode for ever, bad ones are refused."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.codec import (
    Block,
    Series,
    decode_block,
    decode_together,
    encode_block,
    encode_columns,
    join_blocks,
    make_block,
)

INT64 = st.sampled_from([-(2**63), -1, 0, 2**63 - 1]) | st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
SERIES = st.builds(Series, TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT)
POINTS = st.lists(
    st.tuples(SERIES, INT64, INT64, st.floats(width=64, allow_nan=True, allow_infinity=True)),
    max_size=300,
)

GOLDEN_POINTS = [
    (Series("loss"), -3, 1_700_000_000_000, 0.5),
    (Series("é/b c", "m-1", "train", "d1"), 2**63 - 1, 0, math.inf),
    (Series("loss"), 0, 2**63 - 1, -0.0),
]
GOLDEN = bytes.fromhex(
    "0003000000280000005b5b226c6f7373225d2c5b22c3a92f622063222c226d2d31222c22747261696e222c22"
    "6431225d5d000100000000fdff00ffff00ffff00ffff00ffff00ffff00ffff00ff7f000000ff6800ffe500ff"
    "cf00ff8b00ff0100ff0000ff00007f000000000000000000000000000000000000e0f0003f7f80"
)
"""Form 0: a plain body, written by the first version."""

GOLDEN_ZSTD = bytes.fromhex(
    "0128b52ffd603709cd0b00141564000000070000005b5b2261225d5d000102030405060708090a0b0c0d0e0f"
    "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b"
    "3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f6061626300e8d0b8"
    "a0887058402810f8e0c8b098806850382008f0d8c0a89078604830180003070b0f13171b1f23272a2e32363a"
    "3e42464a4e5255595d6165696d7175797d8084888c9094989ca0a4a7abafb3b7bbbfc3c7cbcfd2d6dadee2e6"
    "eaeef2f6fafd0105090d1115191d2124282c3034383c4044484c4f53575b5f63676b6f73777a7e8201804080"
    "c0d0e0e8f0f4f8fc00020406080a0c0e202121222223232424252526262727282829292a2a2b2b2c2c2d2d2e"
    "2e2f2f303030303131313132323232333333333434343435353535363636363737373738383838003f400c00"
    "08a614b8c1dc049ceb6e74b9465e810a544005b8f1c81716d239864233990b545191024b"
)
"""Form 1: a zstd frame, written by the first version: 100 points of a series "a"."""


def bits(block: Block) -> list[tuple[Series, int, int, bytes]]:
    """A block's points with their values bit for bit."""
    return [
        (block.series[place], step, timestamp, struct.pack("<d", value))
        for place, step, timestamp, value in zip(
            block.index.tolist(),
            block.steps.tolist(),
            block.timestamps.tolist(),
            block.values.tolist(),
            strict=True,
        )
    ]


@settings(deadline=None)
@given(POINTS)
def test_a_block_comes_back_as_it_was(points: list[tuple[Series, int, int, float]]) -> None:
    """Every series, step, timestamp and value, in their order, values bit for bit."""
    block = make_block(points)
    assert len(block) == len(points)
    assert bits(decode_block(encode_block(block))) == bits(block)
    assert bits(block) == [(s, step, t, struct.pack("<d", value)) for s, step, t, value in points]


@settings(deadline=None)
@given(POINTS, st.sampled_from(["", "a"]) | TEXT)
def test_one_key_alone_is_what_the_whole_block_has_of_it(
    points: list[tuple[Series, int, int, float]], key: str
) -> None:
    """Of whichever model or dataset, in their order, and nothing else."""
    data = encode_block(make_block(points))
    for wanted in {key, *(series.key for series, *_ in points[:3])}:
        whole = [point for point in bits(decode_block(data)) if point[0].key == wanted]
        assert bits(decode_block(data, wanted)) == whole


@settings(deadline=None, max_examples=50)
@given(st.lists(POINTS, min_size=1, max_size=4))
def test_joined_blocks_have_all_points(groups: list[list[tuple[Series, int, int, float]]]) -> None:
    """Joining keeps points and order, and names each series once."""
    joined = join_blocks([make_block(points) for points in groups])
    assert bits(joined) == bits(make_block([point for points in groups for point in points]))
    assert len(set(joined.series)) == len(joined.series)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("rs"), POINTS), max_size=6), st.integers(1, 3))
def test_blocks_decoded_together_have_all_points(
    given: list[tuple[str, list[tuple[Series, int, int, float]]]], times: int
) -> None:
    """Each owner has the points of its blocks, and alike blocks are one, in their order."""
    stored = [(owner, make_block(points)) for owner, points in given for _ in range(times)]
    found: dict[str, list[tuple[Series, int, int, bytes]]] = {"r": [], "s": []}
    count = 0
    for owner, block, blocks in decode_together([(o, encode_block(b)) for o, b in stored]):
        found[owner] += bits(block)
        count += blocks
        assert blocks >= times
        assert len(block) % blocks == 0
        if len({one for one, _ in given}) == len(given):
            (mine,) = (points for one, points in given if one == owner)
            assert bits(block) == bits(make_block(mine)) * times
    assert count == len(stored)
    for owner, points in found.items():
        whole = [point for one, block in stored if one == owner for point in bits(block)]
        assert sorted(points, key=repr) == sorted(whole, key=repr)


def test_blocks_decoded_together_are_one_within_a_bound() -> None:
    """A thousand alike blocks of a megabyte in all come in a few, which hold every point."""
    blocks = [make_block([(Series("a"), n, k, k / 3) for k in range(50)]) for n in range(1_000)]
    found = list(decode_together([("r", encode_block(block)) for block in blocks]))
    assert 1 < len(found) < 10
    steps = sorted(step for _, block, _ in found for step in block.steps.tolist())
    assert steps == [n for n in range(1_000) for _ in range(50)]


def test_more_series_than_two_bytes_can_count() -> None:
    """65,537 series in one block keep their places."""
    points = [(Series(str(place)), place, 0, float(place)) for place in range(65_537)]
    stored = encode_block(make_block(points))
    ((_, together, _),) = decode_together([("r", stored)])
    assert bits(together) == bits(make_block(points))
    assert bits(decode_block(encode_block(make_block(points)))) == bits(make_block(points))


def test_the_first_plain_bytes_decode_for_ever() -> None:
    """The stored sample of the first version gives the points that it was made from."""
    assert bits(decode_block(GOLDEN)) == bits(make_block(GOLDEN_POINTS))


def test_the_first_compressed_bytes_decode_for_ever() -> None:
    """The stored sample of the first version gives the points that it was made from."""
    expected = [(Series("a"), step, 1_000 * step, step / 4) for step in range(100)]
    assert bits(decode_block(GOLDEN_ZSTD)) == bits(make_block(expected))


def test_training_points_take_few_bytes() -> None:
    """A thousand points of twenty keys with float32 values: at most 8 bytes each."""
    generator = np.random.default_rng(1)
    steps = np.repeat(np.arange(50), 20)
    values = generator.normal(0, 0.01, 1_000).astype(np.float32).astype(np.float64)
    block = Block(
        [Series(f"train/metric_{place}") for place in range(20)],
        np.tile(np.arange(20, dtype=np.uint32), 50),
        steps,
        1_700_000_000_000 + steps * 137,
        values,
    )
    assert len(encode_block(block)) <= 8_000


def malformed() -> list[tuple[str, bytes]]:
    body = GOLDEN[1:]
    huge = struct.pack("<II", 2**32 - 1, 2)
    return [
        ("nothing", b""),
        ("an unknown form", b"\x02" + body),
        ("no body", b"\x00"),
        ("a prefix cut short", GOLDEN[:6]),
        ("columns cut short", GOLDEN[:-1]),
        ("bytes left over", GOLDEN + b"\x00"),
        ("a series of nothing", b"\x00" + struct.pack("<II", 0, 4) + b"[[]]"),
        ("a header that is not JSON", b"\x00" + struct.pack("<II", 0, 1) + b"{"),
        ("a header of another shape", b"\x00" + struct.pack("<II", 0, 7) + b'{"a":1}'),
        ("a series of five", b"\x00" + struct.pack("<II", 0, 23) + b'[["a","b","c","d","e"]]'),
        ("more points than bytes", b"\x00" + huge + b"[]"),
        ("a header beyond the end", b"\x00" + struct.pack("<II", 0, 2**31)),
        ("no zstd frame", b"\x01" + body),
        ("a zstd frame cut short", GOLDEN_ZSTD[:-5]),
        ("a point of no series", b"\x00" + struct.pack("<II", 1, 2) + b"[]" + bytes(26)),
        (
            "a point of an undeclared series",
            b"\x00" + struct.pack("<II", 1, 7) + b'[["a"]]' + b"\x01\x00" + bytes(24),
        ),
    ]


@pytest.mark.parametrize(("what", "data"), malformed(), ids=[name for name, _ in malformed()])
def test_bytes_that_are_no_block_are_refused(what: str, data: bytes) -> None:
    """Whatever is wrong raises ValueError, which stops the projector at the event."""
    with pytest.raises(ValueError, match="block of points"):
        pytest.fail(f"{what} was decoded: {decode_block(data)}")
    with pytest.raises(ValueError, match="block of points"):
        pytest.fail(f"{what} was decoded: {list(decode_together([('r', GOLDEN), ('r', data)]))}")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 250))
def test_damaged_bytes_never_do_worse(noise: bytes, place: int) -> None:
    """Bytes with damage anywhere give a block or ValueError, nothing else."""
    for base in (GOLDEN, GOLDEN_ZSTD):
        damaged = base[:place] + noise + base[place + len(noise) :]
        try:
            block = decode_block(damaged)
            assert len(decode_block(damaged, "loss")) <= len(block)
        except ValueError:
            with pytest.raises(ValueError, match=r"block of points|utf-8"):
                list(decode_together([("r", damaged)]))
            continue
        assert len(block.steps) == len(block.values) == len(block)
        ((_, same, _),) = decode_together([("r", damaged)])
        assert bits(same) == bits(block)


@settings(deadline=None)
@given(POINTS)
def test_columns_are_encoded_as_their_block_is(
    points: list[tuple[Series, int, int, float]],
) -> None:
    """The short way to the stored bytes gives the bytes of the long one, or plain ones that are
    the same points."""
    block = make_block([(Series(one.key), step, time, value) for one, step, time, value in points])
    keys = [series.key for series in block.series]
    columns = (block.index, block.steps, block.timestamps, block.values)
    plain, stored = (
        encode_columns(keys, *(column.tolist() for column in columns), plain=one)
        for one in (True, False)
    )
    assert stored == encode_block(block)
    assert plain[0] == 0
    assert encode_block(decode_block(plain)) == stored
