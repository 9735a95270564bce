"""Bytes to events, by the WHATWG rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target.streams.sse import EventDecoder, ServerSentEvent

STREAMS = sorted(Path(__file__).parent.glob("*.txt"))


def decode(*chunks: bytes) -> list[ServerSentEvent]:
    decoder = EventDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()


def data(*texts: str) -> list[ServerSentEvent]:
    return [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"data: a\n\ndata: b\n\n", data("a", "b"), id="lines end with LF"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", data("a", "b"), id="lines end with CRLF"),
        pytest.param(b"data: a\r\rdata: b\r\r", data("a", "b"), id="lines end with CR"),
        pytest.param(b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", data("a", "b", "c"), id="line ends are mixed"),
        pytest.param(b"data: a\ndata: b\n\n", data("a\nb"), id="several data lines make one event"),
        pytest.param(b"data:a\n\n", data("a"), id="the space after the colon may be missing"),
        pytest.param(b"data:  a\n\n", data(" a"), id="only one space belongs to the format"),
        pytest.param(b"data\n\n", data(""), id="a field without a colon is empty"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", data("a"), id="a byte-order mark is skipped"),
        pytest.param(b": hello\n\n:\ndata: a\n\n", data("a"), id="comments are skipped"),
        pytest.param(b"id: 7\nretry: 10\nweird: x\ndata: a\n\n", data("a"), id="other fields are skipped"),
        pytest.param(b"event: x\ndata: a\n\ndata: b\n\n", [("x", b"a"), b"b"], id="a name is for one event only"),
        pytest.param(b"event: x\n\ndata: b\n\n", data("b"), id="an event without data is none, and its name is gone"),
        pytest.param(b"data: a\n\n\n\n\ndata: b\n\n", data("a", "b"), id="more blank lines change nothing"),
        pytest.param(
            "data: \u2028 \u2029 \x85 \x0b \x0c\n\n".encode(), data("\u2028 \u2029 \x85 \x0b \x0c"), id="U+2028"
        ),
        pytest.param(b"data: a\n\ndata: b", data("a", "b"), id="the last event lacks its line end and blank line"),
        pytest.param(b"data: a\n\ndata: b\n", data("a", "b"), id="the last event lacks its blank line"),
        pytest.param(b"data: a\r\n\r\ndata: b\r", data("a", "b"), id="the body ends within a CRLF"),
        pytest.param(b"data: \xff\n\n", [b"\xff"], id="broken UTF-8 is left to the reader"),
        pytest.param(b"", [], id="an empty body"),
        pytest.param(b"\xef\xbb", [], id="a body that ends within a byte-order mark"),
    ],
)
def test_decodes(body: bytes, expected: list[ServerSentEvent]) -> None:
    assert decode(body) == expected
    assert decode(*(body[i : i + 1] for i in range(len(body)))) == expected


def test_an_event_is_given_out_with_the_chunk_that_completes_it() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\nda") == data("a")
    assert decoder.feed(b"ta: b\r") == []
    assert decoder.feed(b"\r") == data("b")


def test_a_line_of_megabytes_in_small_chunks() -> None:
    text = "x" * 3_000_000
    body = b"data: " + text.encode() + b"\n\n"
    assert decode(*(body[i : i + 1000] for i in range(0, len(body), 1000))) == data(text)


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
@given(split=st.data())
def test_any_split_of_a_recorded_stream_gives_the_same_events(path: Path, split: st.DataObject) -> None:
    body = path.read_bytes()
    cuts = sorted(split.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert decode(*chunks) == decode(body)


def reference(body: bytes, ended: bool = True) -> list[ServerSentEvent]:
    """The standard's own words, on what has come of a body; at its end, an event counts without its blank line."""
    found: list[ServerSentEvent] = []
    name, data = b"", []
    body = body.removeprefix(b"\xef\xbb\xbf")
    *lines, rest = re.split(b"\r\n|\r|\n", body)
    for line in [*lines, rest, b""] if ended else lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if data:
                text = b"\n".join(data)
                found.append((name.decode(errors="replace"), text) if name else text)
            name, data = b"", []
        elif field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return found


lines = st.one_of(
    st.sampled_from(
        [b"data: {}", b"data:x", b"data", b"data: ", b": c", b":", b"event: e", b"event:", b"id: 1", b"odd"]
    ),
    st.text(st.sampled_from('data: \u2028\u2029\x85é😀{}[]"0')).map(str.encode),
    st.binary(max_size=6),
)
bodies = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb"]),
    st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"\r\r"])), max_size=12),
    lines,
).map(lambda body: b"".join([body[0], *(part for pair in body[1] for part in pair), body[2]]))


@given(body=bodies, split=st.data())
def test_any_split_of_any_body_gives_the_events_of_the_standard_as_they_are_complete(
    body: bytes, split: st.DataObject
) -> None:
    cuts = sorted(split.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    decoder = EventDecoder()
    seen: list[ServerSentEvent] = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        seen += decoder.feed(body[start:end])
        assert seen == reference(body[:end], ended=False)
    assert seen + decoder.finish() == reference(body)


@pytest.mark.parametrize("keep_alive", [b": ping\n", b":\n", b"\n", b": ping\n\n", b"\r\n"])
def test_keep_alives_are_no_part_of_an_event_and_add_up_to_nothing(keep_alive: bytes) -> None:
    decoder = EventDecoder()
    for _ in range(1000):
        assert decoder.feed(keep_alive) == []
        assert not decoder.in_event
    assert sum(map(len, decoder._parts)) < 10
    assert decoder.feed(b"data: a") == []
    assert decoder.in_event
    assert decoder.feed(b"\n\n") == data("a")


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    values=st.lists(st.dictionaries(texts, texts, max_size=3), max_size=5),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    ascii_only=st.booleans(),
    split=st.data(),
)
def test_json_survives_any_framing_and_any_split(
    values: list[dict[str, str]], end: str, ascii_only: bool, split: st.DataObject
) -> None:
    body = "".join(f"data: {json.dumps(v, ensure_ascii=ascii_only)}{end}{end}" for v in values).encode()
    cuts = sorted(split.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert [json.loads(event) for event in decode(*chunks) if isinstance(event, bytes)] == values
