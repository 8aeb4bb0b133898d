"""The columnar form of metric points: what the points lane and the blocks of the views hold.

A block is a dictionary of series, then one array each of series index, step, timestamp and value.
The bytes of every array are transposed (all first bytes, then all second bytes, …): the high
bytes of steps, times and float32-precision values repeat, and zstd finds that.

Layout, little-endian: 1 byte of form (0 plain, 1 zstd), then the body: uint32 number of points,
uint32 length of the header, the header (JSON: a list of [key, model_id, dataset_name,
dataset_digest], the last three or the last entries left out where null), uint16 or uint32 series
indexes (uint32 where there are more than 65,535 series), int64 steps, int64 timestamps in
milliseconds, float64 values.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.uint32]

_PLAIN, _ZSTD = b"\x00", b"\x01"
_PREFIX = struct.Struct("<II")
_ONE_POINT = struct.Struct("<Hqqd")
_COMPRESS_FROM_BYTES = 160
"""Below this a zstd frame costs more than it saves."""
_BODY_BYTES_MAX = 1 << 30
_WIDE_FROM_SERIES = 1 << 16
_REMEMBERED_BYTES_MAX = 4_096
_TOGETHER_BYTES_MAX = 512 * 1024
"""So much of blocks' bodies is decoded together: enough to share the cost of each step, and little
enough to stay in a processor's cache."""
_DAMAGE = (zstandard.ZstdError, msgspec.MsgspecError, struct.error, TypeError, IndexError)

T = TypeVar("T")


class Series(NamedTuple):
    """What a point belongs to within its run: the metric's key, and optionally the logged model
    and the dataset that it was measured on."""

    key: str
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Metric points of one run, as columns of equal length."""

    series: list[Series]
    index: Indexes
    """For each point the place of its series in `series`."""
    steps: Int64s
    timestamps: Int64s
    """Milliseconds since the epoch."""
    values: Float64s

    def __len__(self) -> int:
        return len(self.values)


class _Zstd(threading.local):
    """One compressor a thread: zstandard's contexts must not be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=3, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()
_header_encoder = msgspec.json.Encoder()
_header_decoder = msgspec.json.Decoder(list[list[str | None]])


def _transpose(array: npt.NDArray[Any]) -> bytes:
    return array.view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


_ALL = slice(None)
Places = slice | npt.NDArray[np.intp]


def _restore(
    raw: bytes, offset: int, count: int, dtype: npt.DTypeLike, at: Places = _ALL
) -> npt.NDArray[Any]:
    """The column at this offset, or what it holds at some places."""
    wanted = np.dtype(dtype)
    columns = np.frombuffer(raw, np.uint8, count * wanted.itemsize, offset)
    rows = np.ascontiguousarray(columns.reshape(wanted.itemsize, count)[:, at].T)
    return rows.view(wanted).reshape(len(rows))


def _restore_wide(
    raw: bytes, offset: int, count: int, at: Places
) -> tuple[Int64s, Int64s, Float64s]:
    """The columns of 8 bytes, which follow one another: steps, timestamps, values."""
    columns = np.frombuffer(raw, np.uint8, count * 24, offset).reshape(3, 8, count)
    rows = np.ascontiguousarray(columns[:, :, at].transpose(0, 2, 1)).view("<i8")[:, :, 0]
    return rows[0], rows[1], rows[2].view("<f8")


def _short(series: Series) -> list[str | None]:
    entry: list[str | None] = list(series)
    while entry[-1] is None:
        entry.pop()
    return entry


def encode_block(block: Block) -> bytes:
    """The stored bytes of a block."""
    header = _header_encoder.encode([_short(series) for series in block.series])
    index_type = "<u4" if len(block.series) > _WIDE_FROM_SERIES else "<u2"
    body = b"".join(
        (
            _PREFIX.pack(len(block), len(header)),
            header,
            _transpose(block.index.astype(index_type)),
            _transpose(block.steps),
            _transpose(block.timestamps),
            _transpose(block.values),
        )
    )
    return _stored(body)


COLUMNS_KEYS_MAX = 65_536
"""So many keys `encode_columns` takes."""


def encode_columns(
    keys: Sequence[str],
    index: Sequence[int],
    steps: Sequence[int],
    timestamps: Sequence[int],
    values: Sequence[float],
    *,
    plain: bool = False,
) -> bytes:
    """What `encode_block` gives for points of metrics on no model or dataset, from plain lists.

    `index` says for each point the place of its key. The numbers must fit: int64, and at most
    COLUMNS_KEYS_MAX keys. `plain`: not compressed, for what is not kept for long.
    """
    count = len(values)
    header = _header_encoder.encode([(key,) for key in keys])
    if count == 1:
        # One point's columns are its numbers, one after the other.
        columns = _ONE_POINT.pack(index[0], steps[0], timestamps[0], values[0])
        return b"".join((_PLAIN, _PREFIX.pack(1, len(header)), header, columns))
    wide = b"".join((array("q", steps), array("q", timestamps), array("d", values)))
    body = b"".join(
        (
            _PREFIX.pack(count, len(header)),
            header,
            _transpose(np.frombuffer(array("H", index), "<u2")),
            np.frombuffer(wide, np.uint8).reshape(3, count, 8).transpose(0, 2, 1).tobytes(),
        )
    )
    return _PLAIN + body if plain else _stored(body)


def _stored(body: bytes) -> bytes:
    if len(body) < _COMPRESS_FROM_BYTES:
        return _PLAIN + body
    return _ZSTD + _zstd.compressor.compress(body)


def decode_block(data: bytes, key: str | None = None) -> Block:
    """The block that these stored bytes hold; with a `key` only its points, at less cost.

    Raises ValueError where they hold none.
    """
    try:
        body = _body(data)
        count, header_bytes = _PREFIX.unpack_from(body)
        offset = _PREFIX.size + header_bytes
        series = list(_declared(body[_PREFIX.size : offset]))
        index_type = "<u4" if len(series) > _WIDE_FROM_SERIES else "<u2"
        width = np.dtype(index_type).itemsize
        if len(body) != offset + count * (width + 24):
            raise ValueError("a block of points has columns of the wrong length")
        if len(series) == 1 and body.count(0, offset, offset + count * width) == count * width:
            # One series' index is all zeros: seen so at a fraction of the cost.
            index = np.zeros(count, np.uint32)
        else:
            index = _restore(body, offset, count, index_type).astype(np.uint32)
        if count and (not series or int(index.max()) >= len(series)):
            raise ValueError("a block of points names a series that it does not declare")
        at = _ALL if key is None else _places(series, index, key)
        steps, timestamps, values = _restore_wide(body, offset + count * width, count, at)
    except _DAMAGE as error:
        raise ValueError(f"not a block of points: {error}") from error
    return Block(series, index[at], steps, timestamps, values)


def decode_together(stored: Iterable[tuple[T, bytes]]) -> Iterator[tuple[T, Block, int]]:
    """What many stored blocks hold, each given with its owner, at less cost than one by one.

    Blocks of an owner that declare the same series, and have as many points, become one, in which
    they follow one another; with it comes how many they are. Owners are in no order. Raises
    ValueError where one is no block.
    """
    alike: dict[tuple[T, bytes], list[bytes]] = {}
    size = 0
    try:
        for owner, data in stored:
            body = _body(data)
            head = body[: _PREFIX.size + _PREFIX.unpack_from(body)[1]]
            alike.setdefault((owner, head), []).append(body)
            size += len(body)
            if size >= _TOGETHER_BYTES_MAX:
                yield from _all_joined(alike)
                size = 0
        yield from _all_joined(alike)
    except _DAMAGE as error:
        raise ValueError(f"not a block of points: {error}") from error


def _all_joined(alike: dict[tuple[T, bytes], list[bytes]]) -> Iterator[tuple[T, Block, int]]:
    while alike:
        (owner, head), bodies = alike.popitem()
        yield owner, _joined_alike(head, bodies), len(bodies)


def _joined_alike(head: bytes, bodies: Sequence[bytes]) -> Block:
    """The block of bodies that begin with the same head."""
    count = _PREFIX.unpack_from(head)[0]
    series = list(_declared(head[_PREFIX.size :]))
    width = 4 if len(series) > _WIDE_FROM_SERIES else 2
    wide_at = len(head) + count * width
    size = wide_at + count * 24
    if any(len(body) != size for body in bodies):
        raise ValueError("a block of points has columns of the wrong length")
    rows = np.frombuffer(b"".join(bodies), np.uint8).reshape(len(bodies), size)
    (index,) = _restore_rows(rows[:, len(head) : wide_at], 1, width, count).astype(np.uint32)
    if len(index) and (not series or int(index.max()) >= len(series)):
        raise ValueError("a block of points names a series that it does not declare")
    steps, timestamps, values = _restore_rows(rows[:, wide_at:], 3, 8, count)
    return Block(series, index, steps.view("<i8"), timestamps.view("<i8"), values.view("<f8"))


def _restore_rows(
    rows: npt.NDArray[np.uint8], columns: int, width: int, count: int
) -> npt.NDArray[Any]:
    """Columns of so many numbers of this width, of which each row has some, one after the other."""
    cells = rows.reshape(len(rows), columns, width, count)
    restored = np.empty((columns, len(rows), count, width), np.uint8)
    # A byte of all numbers at a time: half the time of copying each number's few bytes.
    for place in range(width):
        restored[..., place] = cells[:, :, place].transpose(1, 0, 2)
    return restored.reshape(columns, -1).view(f"<u{width}")


@lru_cache(maxsize=256)
def _known(header: bytes) -> tuple[Series, ...]:
    return tuple(Series(entry[0] or "", *entry[1:]) for entry in _header_decoder.decode(header))


def _declared(header: bytes) -> tuple[Series, ...]:
    """The series of a header. A run logs the same ones again and again: those are remembered."""
    read = _known if len(header) <= _REMEMBERED_BYTES_MAX else _known.__wrapped__
    return read(header)


def body_bytes(data: bytes) -> int:
    """How large the body of these stored bytes says it is; raises ValueError where it does not."""
    if data[:1] != _ZSTD:
        return len(data)
    try:
        size = int(zstandard.frame_content_size(data[1:]))
    except zstandard.ZstdError as error:
        raise ValueError(f"not a block of points: {error}") from error
    if size < 0:
        raise ValueError("a block of points declares no size")
    return size


def _body(data: bytes) -> bytes:
    form = data[:1]
    if form == _PLAIN:
        return data[1:]
    if form != _ZSTD:
        raise ValueError(f"a block of points starts with byte 0 or 1, not {form!r}")
    frame = memoryview(data)[1:]
    # Only then is the size that a frame declares not taken on trust.
    if not 0 <= zstandard.frame_content_size(frame) <= _BODY_BYTES_MAX:
        raise ValueError("a block of points declares no size, or one beyond the bound")
    return _zstd.decompressor.decompress(frame)


def _places(series: list[Series], index: Indexes, key: str) -> Places:
    """Where the points of a key are."""
    wanted = [place for place, one in enumerate(series) if one.key == key]
    if len(wanted) == len(series):
        return _ALL
    if len(wanted) == 1:
        return np.flatnonzero(index == wanted[0])
    return np.flatnonzero(np.isin(index, wanted))


def make_block(points: list[tuple[Series, int, int, float]]) -> Block:
    """A block of (series, step, timestamp in ms, value)."""
    places: dict[Series, int] = {}
    index = [places.setdefault(point[0], len(places)) for point in points]
    return Block(
        list(places),
        np.array(index, np.uint32),
        np.array([point[1] for point in points], np.int64),
        np.array([point[2] for point in points], np.int64),
        np.array([point[3] for point in points], np.float64),
    )


def join_blocks(blocks: list[Block]) -> Block:
    """One block with the points of many, in their order."""
    if len(blocks) == 1:
        return blocks[0]
    places: dict[Series, int] = {}
    indexes = []
    for block in blocks:
        mapping = np.array([places.setdefault(s, len(places)) for s in block.series], np.uint32)
        indexes.append(mapping[block.index] if len(block) else block.index)
    return Block(
        list(places),
        np.concatenate(indexes),
        np.concatenate([block.steps for block in blocks]),
        np.concatenate([block.timestamps for block in blocks]),
        np.concatenate([block.values for block in blocks]),
    )
