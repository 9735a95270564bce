"""An endpoint that is served though its agent is not in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from starlette.responses import Response


class StandIn(ABC):
    """An endpoint that is served though its agent is not in this process.

    Attributes:
        name: Its name.
        entity: What its description names as what is served.
        task: Its task; None where that is not known.
    """

    name: str
    entity: str
    task: str | None

    @property
    def served_entity(self) -> str:
        """The name of what is served behind it."""
        return f"{self.name}-1"

    @abstractmethod
    async def answer(self, body: dict[str, Any], runs: Callable[[], None]) -> Response:
        """Return the answer to a request.

        Args:
            body: The request.
            runs: Called when the agent runs for it.

        Raises:
            RefusedError: There is none.
        """
