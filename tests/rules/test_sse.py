"""Server-sent events: framing that any split leaves alone."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tenantguard.rules.sse import SSEEvent, SSEFramer, SSELines, read_field

PIECES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"data: a",
        b"data:b",
        b"data",
        b"event: error",
        b": note",
        b"\xef\xbb\xbf",
        b"id: 7",
        b"{}",
    ],
)
STREAMS = st.lists(PIECES, max_size=40).map(b"".join)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(edges)]


def frame(chunks: list[bytes], limit: int = 1 << 20) -> tuple[list[SSEEvent], bytes, bool]:
    framer = SSEFramer(limit)
    events = [event for chunk in chunks for event in framer.feed(chunk)]
    return events, framer.finish(), framer.overflowed


@given(STREAMS, st.lists(st.integers(min_value=0)))
def test_events_are_the_same_for_any_split_and_join_to_the_stream(stream: bytes, places: list[int]) -> None:
    whole, rest, _ = frame([stream])
    assert frame(cut(stream, places)) == (whole, rest, False)
    assert frame([stream[i : i + 1] for i in range(len(stream))]) == (whole, rest, False)
    assert b"".join(event.raw for event in whole) + rest == stream


@given(STREAMS, st.lists(st.integers(min_value=0)))
def test_lines_are_the_same_for_any_split_and_join_to_the_stream(stream: bytes, places: list[int]) -> None:
    def split(chunks: list[bytes]) -> tuple[list[bytes], bytes]:
        lines = SSELines()
        return [line for chunk in chunks for line in lines.feed(chunk)], lines.finish()

    whole, rest = split([stream])
    assert split(cut(stream, places)) == (whole, rest)
    assert b"".join(whole) + rest == stream
    assert all(line.endswith((b"\n", b"\r")) for line in whole)


@given(STREAMS, st.lists(st.integers(min_value=0)), st.integers(min_value=1, max_value=30))
def test_an_overflow_is_the_same_for_any_split(stream: bytes, places: list[int], limit: int) -> None:
    whole, rest, overflowed = frame([stream], limit)
    assert b"".join(event.raw for event in whole) + rest == stream
    assert all(len(event.raw) <= limit + 3 for event in whole)
    events, _, also = frame(cut(stream, places), limit)
    assert (events, also) == (whole, overflowed)


def test_the_fields_of_an_event_follow_the_standard() -> None:
    events, rest, _ = frame(
        [
            b"\xef\xbb\xbfevent: one\r\ndata: a\r\ndata:  b\r\n\r\n",
            b": note\n\ndata\ndatum: x\n\nevent:two\rdata:c\r\rdata: open",
        ],
    )
    assert [(event.event, event.data) for event in events] == [
        ("one", b"a\n b"),
        ("message", b""),
        ("message", b""),
        ("two", b"c"),
    ]
    assert rest == b"data: open"


def test_a_byte_order_mark_is_one_only_at_the_start() -> None:
    events, _, _ = frame([b"\xef\xbb\xbf\n", b"\xef\xbb\xbfdata: x\n\n"])
    assert [(event.raw, event.data) for event in events] == [
        (b"\xef\xbb\xbf\n", b""),
        (b"\xef\xbb\xbfdata: x\n\n", b""),
    ]


def test_an_event_is_rewritten_without_touching_its_other_lines() -> None:
    (event,), _, _ = frame([b"\xef\xbb\xbfdata: a\r\nid: 7\r\ndata: b\r\n: note\r\n\r\n"])
    assert event.with_data(b"x\ny") == b"\xef\xbb\xbfdata: x\r\ndata: y\r\nid: 7\r\n: note\r\n\r\n"
    assert event.with_data(b"") == b"\xef\xbb\xbfdata: \r\nid: 7\r\n: note\r\n\r\n"
    assert SSEEvent(b": note\n\n", "message", b"").with_data(b"x") == b": note\n\n"


@given(st.binary(max_size=60).filter(lambda data: b"\r" not in data))
def test_rewritten_data_reads_back(data: bytes) -> None:
    (event,), _, _ = frame([b"event: e\ndata: old\n\n"])
    (again,), rest, _ = frame([event.with_data(data)])
    assert (again.event, again.data, rest) == ("e", data, b"")


def test_after_an_overflow_nothing_more_is_taken() -> None:
    framer = SSEFramer(20)
    assert [event.data for event in framer.feed(b"data: a\n\ndata: " + b"x" * 30)] == [b"a"]
    assert framer.overflowed
    assert framer.feed(b"\n\ndata: b\n\n") == []
    assert framer.finish() == b"data: " + b"x" * 30


def test_an_overflow_is_known_before_the_event_is_whole() -> None:
    framer = SSEFramer(10)
    assert framer.feed(b"data: a\nda") == []
    assert not framer.overflowed
    assert framer.feed(b"t") == []
    assert framer.overflowed


def test_an_event_above_the_limit_is_not_given_even_when_whole() -> None:
    framer = SSEFramer(10)
    assert framer.feed(b"data: a\ndata: b\n\n") == []
    assert framer.finish() == b"data: a\ndata: b\n\n"


def test_a_long_line_in_many_small_chunks_is_linear() -> None:
    """Twice the bytes take about twice the appends, not four times: nothing is joined before the line is whole."""
    lines = SSELines()
    for _ in range(200_000):
        assert lines.feed(b"x") == []
    assert lines.waiting == 200_000
    assert lines.feed(b"\n") == [b"x" * 200_000 + b"\n"]


def test_what_an_event_says_is_not_in_its_repr() -> None:
    (event,), _, _ = frame([b"data: alice@example.org\n\n"])
    assert "alice" not in repr(event)


def test_a_field_is_read_only_under_its_whole_name() -> None:
    assert read_field(b"data:x\r\n", b"data") == b"x"
    assert read_field(b"data\n", b"data") == b""
    assert read_field(b"database: x\n", b"data") is None
    assert read_field(b"id: x\n", b"data") is None
