"""Requests that the server refuses, with the platform's kind of body."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


class RefusedError(Exception):
    """A request that the platform refuses, with the status, code and message it refuses it with."""

    def __init__(self, status: int, error_code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message

    def body(self) -> dict[str, Any]:
        return {"error_code": self.error_code, "message": self.message}


def refusal(error: RefusedError) -> Response:
    """Return the answer that tells of an error."""
    # In ASCII: what a request said, and its error repeats, may hold half a character, which UTF-8 can't.
    return Response(json.dumps(error.body()), error.status, media_type="application/json")
