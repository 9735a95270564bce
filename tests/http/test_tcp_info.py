"""What the kernel counts of a connection, and what follows for a request that got no answer."""

from __future__ import annotations

import socket
import sys

import pytest

from mlflow_agent_target.http.tcp_info import is_unacknowledged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts this")


class Kernel:
    """A socket of which the kernel says this: bytes acknowledged, sent, and sent once more (linux/tcp.h)."""

    def __init__(self, acknowledged: int, sent: int, sent_again: int, size: int = 232) -> None:
        info = bytearray(232)
        for at, count in ((120, acknowledged), (200, sent), (208, sent_again)):
            info[at : at + 8] = count.to_bytes(8, sys.byteorder)
        self._info = bytes(info[:size])

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        return self._info[:size]


@pytest.mark.parametrize(
    ("kernel", "unacknowledged"),
    [
        pytest.param(Kernel(1000, 1000, 0), False, id="all has arrived"),
        pytest.param(Kernel(600, 1000, 0), True, id="the last request has not"),
        pytest.param(Kernel(1000, 1400, 400), False, id="all has arrived, a part of it after it was lost once"),
        pytest.param(Kernel(600, 1400, 400), True, id="a part was lost once, and the last request has not arrived"),
        pytest.param(Kernel(999, 1000, 0), True, id="a byte is missing"),
        pytest.param(Kernel(600, 1000, 0, size=208), False, id="an older kernel does not count"),
        pytest.param(Kernel(600, 1000, 0, size=215), False, id="an older kernel counts a part"),
    ],
)
def test_what_was_sent_again_is_not_taken_for_unsent(kernel: Kernel, unacknowledged: bool) -> None:
    assert is_unacknowledged(kernel) is unacknowledged


def test_a_socket_that_tells_nothing_tells_nothing() -> None:
    with socket.socket() as closed:
        pass
    assert is_unacknowledged(closed) is False
    assert is_unacknowledged(object()) is False


def test_a_real_connection_has_what_was_read_of_it() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
        listener.accept()[0] as theirs,
    ):
        ours.sendall(b"x" * 1000)
        theirs.recv(1000)
        assert is_unacknowledged(ours) is False
