"""How `predict_batch` does at the endpoints that batches were seen to fail at, against thread pools.

Its seconds are compared with the ideal schedule's, which knows the endpoint: rows in their order on as many machines as
there are places (192 where nothing bounds them, the most that `predict_batch` sends), the rows beyond the burst at the
bucket's rate, and the time of an outage on top. Refusals by chance cost the ideal schedule nothing.

And with pools over requests with urllib3's retries: of the best size that was tried and lost no row, and of 64. Pools
ask everything again that passes. Where that may run an agent twice, `predict_batch` is measured both ways.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from tests.batch.cases import CASES, Case
from tests.benchmarks.batch_clients import OURS, Task, measured
from tests.benchmarks.endpoints import Server

IDEMPOTENT = f"{OURS}, idempotent"
Numbers = dict[str, float]
Found = dict[str, Numbers]

_USUAL_POOL = 64
# Measurements at a time, where many rows a second keep a processor busy and where all wait for the endpoint.
_BUSY_AT_A_TIME, _WAITING_AT_A_TIME, _BUSY_ROWS_A_SECOND = 3, 6, 70.0
_SMALL_ROWS = 20
# A pool that takes so many times the ideal schedule is stopped. So are we, later: a hang must not be waited for.
_MOST_OF_IDEAL, _OUR_MOST_OF_IDEAL = 4.0, 20.0
_START_SECONDS = 15.0
_SLOW, _SLOW_BY_CHANCE = 1.15, 1.3


class Best(NamedTuple):
    size: int
    seconds: float


def sizes(case: Case) -> list[int]:
    """Return the sizes of pools to try: the one that suits a known bound, or some where no single one does."""
    endpoint = case.endpoint
    if endpoint.rate < math.inf:
        found = {max(case.pool // 2, 1), case.pool, 2 * case.pool, 4 * case.pool}
    else:
        found = {case.pool, *(change["places"] for _, change in endpoint.later if "places" in change)}
    return sorted({*found, _USUAL_POOL})


def best_pool(found: Found) -> Best | None:
    """Return the quickest pool that lost no row; None if all did."""
    pools = [
        Best(int(client.removeprefix("pool of ")), numbers["seconds"])
        for client, numbers in found.items()
        if client.startswith("pool of ") and not numbers["lost"] and numbers["seconds"] < math.inf
    ]
    return min(pools, key=lambda pool: pool.seconds, default=None)


def faults(name: str, found: Found) -> list[str]:
    """Return what isn't as promised: slower than the better of ideal and best pool, rows lost, a pause not kept."""
    case, ours, best = CASES[name], found[OURS], best_pool(found)
    aim = min(case.ideal, best.seconds if best else math.inf)
    ways = [ours, found.get(IDEMPOTENT, ours)]
    is_slow = ours["seconds"] > (_SLOW_BY_CHANCE if case.endpoint.chance or "lie" in name else _SLOW) * aim
    return [
        *(["slow"] if is_slow else []),
        *(["lost"] if ways[-1]["lost"] else []),  # what may have been answered is asked again only if it may be
        *(["too soon"] if any(way["too soon"] for way in ways) else []),
    ]


HEADER = f"  {'':38} {'s':>6} {'of ideal':>9} {'of best pool':>13} {'of 64':>6}  lost, refused, too soon: ours / pools"


def line(name: str, found: Found) -> str:
    """Return what is shown of a case. It starts with a `!` where something isn't as promised."""
    ours, usual, best = found[OURS]["seconds"], found.get(f"pool of {_USUAL_POOL}"), best_pool(found)
    of_best = f"{ours / best.seconds:.2f} ({best.size})" if best else "-"
    of_usual = f"{ours / usual['seconds']:.2f}" if usual and usual["seconds"] < math.inf else "-"
    broken = faults(name, found)
    counts = [
        f"{'' if client == OURS else client.removeprefix('pool of ') + ': '}{_counted(numbers)}"
        for client, numbers in found.items()
    ]
    return (
        f"{'!' if broken else ' '} {name:38} {ours:6.1f} {ours / CASES[name].ideal:9.2f} {of_best:>13} {of_usual:>6}  "
        f"{' | '.join(counts)}{'  <- ' + ', '.join(broken) if broken else ''}"
    )


def _counted(numbers: Numbers) -> str:
    if numbers["seconds"] == math.inf:
        return "stopped"
    return f"{numbers['lost']:.0f}, {numbers['refused']:.0f}, {numbers['too soon']:.0f}"


def _at_endpoint(name: str, client: str, size: int, rows: int) -> Numbers:
    """Measure a client at one of the cases. One that is stopped took for ever."""
    case = CASES[name]
    is_ours = client.startswith(OURS)
    server = Server(name)
    task = Task(
        OURS if is_ours else client,
        server.url,
        "any",
        rows,
        None if is_ours else size,
        bad=case.run.get("bad", 0) if is_ours else 0,
        timeout=case.run.get("timeout", 120.0),
        idempotent=client == IDEMPOTENT,
    )
    try:
        most = _START_SECONDS + case.ideal * (_OUR_MOST_OF_IDEAL if is_ours else _MOST_OF_IDEAL)
        numbers = measured(task, most_seconds=most)
        counts = server.counts()
    except subprocess.TimeoutExpired:
        return {"seconds": math.inf, "lost": math.inf, "refused": math.inf, "too soon": math.inf}
    finally:
        server.stop()
    wrong = len(range(0, rows, case.endpoint.wrong_every)) if case.endpoint.wrong_every else 0
    return {
        "seconds": numbers["seconds"],
        "lost": numbers["failed"] - wrong,
        "refused": counts["refused"],
        "too soon": counts["too_soon"],
    }


def at_endpoints(only: str, *, ours_only: bool, small: bool) -> Iterator[tuple[str, str, Found]]:
    """Measure all cases with that in their name, some at a time; yield each one's line, name and numbers."""
    cases = {name: case for name, case in CASES.items() if only in name}
    if small:
        cases = dict(list(cases.items())[:1])
    jobs: list[tuple[str, str, int]] = []
    for name, case in cases.items():
        jobs += [(name, OURS, 0), *([(name, IDEMPOTENT, 0)] if case.lost else [])]
        jobs += [] if ours_only else [(name, "bare requests", size) for size in sizes(case)]
    with ThreadPoolExecutor(_BUSY_AT_A_TIME) as busy, ThreadPoolExecutor(_WAITING_AT_A_TIME) as waits:
        waiting: dict[str, dict[str, Future[Numbers]]] = {name: {} for name in cases}
        for name, client, size in jobs:
            case = cases[name]
            rows = _SMALL_ROWS if small else case.rows
            pool = busy if case.rows / case.ideal > _BUSY_ROWS_A_SECOND else waits
            key = f"pool of {size}" if size else client
            waiting[name][key] = pool.submit(_at_endpoint, name, client, size, rows)
        for name, clients in waiting.items():
            found = {client: numbers.result() for client, numbers in clients.items()}
            yield line(name, found), name, found
