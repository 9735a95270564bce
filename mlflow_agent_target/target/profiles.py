"""The profiles of `~/.databrickscfg`, as databricks-sdk reads them, but each by itself."""

from __future__ import annotations

import configparser
import functools
from collections.abc import Mapping
from pathlib import Path

from mlflow_agent_target.errors import InvalidInputError

FILE_VARIABLE = "DATABRICKS_CONFIG_FILE"
_PROFILE_VARIABLE = "DATABRICKS_CONFIG_PROFILE"
_SETTINGS, _DEFAULT = "__settings__", "DEFAULT"


def profile_in_use(environment: Mapping[str, str]) -> str:
    """Return the profile that databricks-sdk takes where none is named.

    Raises:
        InvalidInputError: The file can't be read.
    """
    named = environment.get(_PROFILE_VARIABLE)
    return named or sections(environment).get(_SETTINGS, {}).get("default_profile", "").strip() or _DEFAULT


def sections(environment: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
    """Return the profiles of the file that the environment names, or of `~/.databrickscfg`; none where there is none.

    Raises:
        InvalidInputError: It can't be read. The error quotes nothing of it: a line may hold a token.
    """
    path = Path(environment.get(FILE_VARIABLE) or "~/.databrickscfg")
    try:
        text = path.expanduser().read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return {}
    found = _parsed(text)
    if found is None:
        raise InvalidInputError(
            f"{path} can't be read as profiles: it holds a line that is neither [PROFILE] nor KEY = VALUE, or "
            "something twice."
        )
    return found


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> dict[str, dict[str, str]] | None:
    # As in the SDK, a profile doesn't inherit from DEFAULT, and % is no more than a character.
    parser = configparser.ConfigParser(default_section="\n", interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    return {name: dict(parser[name]) for name in parser.sections()}
