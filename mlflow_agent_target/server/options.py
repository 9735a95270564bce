"""How a local server is to be: its options, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_agent_target.errors import InvalidInputError
from mlflow_agent_target.server.faults import Faults

if TYPE_CHECKING:
    from mlflow_agent_target.server.replay import Recording

# The platform's limit for requests to agents:
# https://docs.databricks.com/aws/en/machine-learning/model-serving/model-serving-limits
_LARGEST_REQUEST_BYTES = 4 * 1024 * 1024
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a local server is to be. See `serve`, which says what the options are.

    Raises:
        InvalidInputError: One can't be used.
    """

    token: str | None = None
    allowed_origins: Sequence[str] = ()
    max_request_bytes: int = _LARGEST_REQUEST_BYTES
    faults: Faults = field(default_factory=Faults)
    recording: str | Path | Recording | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not (isinstance(self.token, str) and self.token.strip()):
            raise InvalidInputError("token is empty. Give a text that callers must send, or leave it out for none.")
        if isinstance(self.allowed_origins, str) or not all(map(_is_origin, self.allowed_origins)):
            raise InvalidInputError(
                f"allowed_origins must be a list of origins of web pages, such as http://localhost:3000, without a "
                f"path; not {self.allowed_origins!r:.200}."
            )
        if isinstance(self.max_request_bytes, bool) or not isinstance(self.max_request_bytes, int):
            self._refuse_size()
        if self.max_request_bytes < 1:
            self._refuse_size()
        if not isinstance(self.faults, Faults):
            raise InvalidInputError(f"faults must be Faults(...), not {self.faults!r:.100}.")

    def _refuse_size(self) -> None:
        raise InvalidInputError(
            f"max_request_bytes must be a whole number of bytes above 0, not {self.max_request_bytes!r}."
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the options that a command has."""
        own = tuple(each.name for each in fields(cls) if each.name != "faults")
        return own + Faults.option_names()

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> ServerOptions:
        """Return the options that are given as a command's are: as text, several origins with commas between them.

        Raises:
            InvalidInputError: There is no such option, or its value can't be used.
        """
        if unknown := sorted(set(config) - set(cls.names())):
            raise InvalidInputError(f"There is no option {', '.join(unknown)}. There are {', '.join(cls.names())}.")
        faults = {name: config[name] for name in Faults.option_names() if name in config}
        given: dict[str, Any] = {name: value for name, value in config.items() if name not in faults}
        if isinstance(origins := given.get("allowed_origins"), str):
            given["allowed_origins"] = [origin.strip() for origin in origins.split(",")]
        if str(size := given.get("max_request_bytes")).isdecimal():
            given["max_request_bytes"] = int(str(size))
        return cls(**given, faults=Faults.from_options(faults))


def _is_origin(origin: Any) -> bool:
    return isinstance(origin, str) and _ORIGIN.fullmatch(origin) is not None
