"""The port that a server listens on."""

from __future__ import annotations

import socket
from typing import Any

from mlflow_agent_target.errors import InvalidInputError


def listen(host: str, port: Any) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: An address of this machine.
        port: A number, also as text; 0 for a free one.

    Raises:
        InvalidInputError: It is no port, or can't be listened on.
    """
    number = int(port) if str(port).isdecimal() else -1
    if not 0 <= number <= 65535:
        raise InvalidInputError(f"port must be a number from 0 (a free one) to 65535, not {port!r}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY, and so sends small packets at once, only if the protocol is named here.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, number))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InvalidInputError(
            f"Port {number} of {host} can't be listened on ({error}). Choose another port, or 0 for a free one."
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the base URL of what listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
