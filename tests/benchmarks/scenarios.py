"""The scenarios: which measure, with which clients, how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_ALL = ("bare", "mlflow", "openai", "ours", "ours-workspace")
_ONE_OF_OURS = ("bare", "mlflow", "openai", "ours")


@dataclass(frozen=True)
class Scenario:
    """A measure of `measures`, for some clients side by side.

    Attributes:
        name: As `--only` and the report have it.
        measure: The function of `measures`; "start" is a process of its own.
        arguments: Of the measure.
        clients: Who is measured; the first is what the others are compared with.
        rounds: How often each client is measured, in turns.
        tls: Whether over https.
        new_process: Whether each round has a process of its own: memory, and what may hang.
    """

    name: str
    measure: str
    arguments: dict[str, Any]
    clients: tuple[str, ...] = _ALL
    rounds: int = 5
    tls: bool = False
    new_process: bool = False


def scenarios(small: bool) -> list[Scenario]:
    """Return the scenarios, or the same in small: seconds, for a look whether they run."""
    rounds, calls = (1, 10) if small else (7, 300)
    found = [
        Scenario("start", "start", {}, ("import", "mlflow", "openai", "ours", "ours-workspace"), 1 if small else 5)
    ]
    for tls in (False, True):
        scheme = "https" if tls else "http"
        found += [
            Scenario(f"predict, {scheme}", "predict", {"endpoint": "answer-2000", "count": calls}, _ALL, rounds, tls),
            Scenario(
                f"stream of 20 events, {scheme}",
                "stream",
                {"endpoint": "events-20-event", "count": max(calls // 4, 5)},
                _ALL,
                rounds,
                tls,
            ),
        ]
    for framing in ("event", "64k", "close"):
        for count in (1000,) if small else (3000, 100_000):
            # The OpenAI client would take minutes over the long one, at the pace of the short one.
            clients = ("limit", "bare", "mlflow", "ours") if count > 10_000 else ("limit", *_ONE_OF_OURS)
            repeats = 1 if small or count > 10_000 else 5
            arguments = {"endpoint": f"events-{count}-{framing}"}
            found.append(Scenario(f"decode {count}, {framing}", "decode", arguments, clients, repeats))
    for framing in ("event", "close"):
        arguments = {"endpoint": f"paced-{10 if small else 200}-{framing}"}
        clients = ("bare-by-byte", *_ONE_OF_OURS)
        found.append(Scenario(f"lag, {framing}", "lag", arguments, clients, 1 if small else 3))
    once = {"rounds": 1, "new_process": not small}
    stream_mb, answer_mb, streams, workers = (20, 5, 24, 4) if small else (300, 50, 256, 16)
    return [
        *found,
        Scenario(
            f"stream of {stream_mb} MB", "memory_of_stream", {"endpoint": f"flood-{stream_mb}"}, _ONE_OF_OURS, **once
        ),
        Scenario(f"answer of {answer_mb} MB", "memory_of_answer", {"megabytes": answer_mb}, _ONE_OF_OURS, **once),
        Scenario(
            f"{workers} threads",
            "threads",
            {"endpoint": "answer-2000", "workers": workers, "count": max(calls // 3, 5)},
            _ONE_OF_OURS,
            1 if small else 5,
        ),
        Scenario(
            f"{streams} streams at once, https",
            "streams_at_once",
            {"count": streams, "patience": 1.5 if small else 15.0},
            ("bare", "mlflow", "openai", "ours"),
            tls=True,
            **once,
        ),
    ]
