"""Chunked bodies, however their bytes arrive."""

from __future__ import annotations

import http.client
import io
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target.http.sockets import _Response

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Arriving(io.RawIOBase):
    """A socket whose bytes arrive in the given pieces, and that is then closed."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if piece[size:]:
            self._pieces.insert(0, piece[size:])
        return size

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def answer(*pieces: bytes) -> _Response:
    response = _Response(Arriving([HEAD, *pieces]))  # type: ignore[arg-type]
    response.begin()
    return response


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extension=st.sampled_from([b"", b";x=1"]),
    trailer=st.sampled_from([b"", b"Checked: yes\r\n"]),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_chunks_add_up_however_they_arrive(
    chunks: list[bytes], extension: bytes, trailer: bytes, places: list[int]
) -> None:
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    response = answer(*cut(framed + b"0\r\n" + trailer + b"\r\n", places))
    read = []
    while data := response.read1(65536):
        read.append(data)
    assert b"".join(read) == b"".join(chunks)
    assert response.isclosed()
    assert response.read1(65536) == b""


def test_all_chunks_that_have_arrived_are_given_at_once() -> None:
    response = answer(b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n0\r\n\r\n")
    assert [response.read1(65536) for _ in range(3)] == [b"ab", b"c", b""]


@pytest.mark.parametrize(
    "rest", [b"", b"2\r\n", b"2\r\nc", b"nonsense\r\n", b"-1\r\n", b"\r\n", b"0\r\n", b"f" * 70_000]
)
def test_a_body_that_breaks_off_gives_what_came_and_then_raises(rest: bytes) -> None:
    response = answer(b"1\r\na\r\n" + rest)
    read: list[bytes] = []
    with pytest.raises(http.client.IncompleteRead):
        read.extend(iter(lambda: response.read1(65536), b""))
    assert b"".join(read) in (b"a", b"ac")
