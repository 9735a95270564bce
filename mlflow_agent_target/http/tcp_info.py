"""What the kernel knows of a connection: whether what was sent has arrived."""

from __future__ import annotations

import socket
import sys
from typing import Any

# Offsets in Linux's tcp_info (include/uapi/linux/tcp.h) of counters of 64 bits: bytes that the other side has
# acknowledged, bytes sent, and bytes that were sent once more.
_ACKNOWLEDGED, _SENT, _SENT_AGAIN = 120, 200, 208


def is_unacknowledged(sock: Any) -> bool:
    """Return whether the other side's kernel has not taken in all that was sent. False where that can't be told."""
    if sys.platform != "linux":
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT_AGAIN + 8)
    except (OSError, AttributeError):
        return False
    if len(info) < _SENT_AGAIN + 8:
        return False  # an older kernel

    def counted(at: int) -> int:
        return int.from_bytes(info[at : at + 8], sys.byteorder)

    return counted(_ACKNOWLEDGED) < counted(_SENT) - counted(_SENT_AGAIN)
