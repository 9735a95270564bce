"""How many may be in flight, and when: whole runs against endpoints of many kinds, in no time at all."""

from __future__ import annotations

import math

import pytest

from mlflow_agent_target.batch.limiter import Limiter
from mlflow_agent_target.batch.policy import ANSWERED, NEVER_LEFT, End, Ended
from tests.batch.cases import CASES, Case
from tests.batch.simulated import Endpoint, Run, around, schedule


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", [3, 4])
def test_a_run_is_nearly_as_quick_as_it_can_be(case: Case, seed: int) -> None:
    limiter = Limiter(192, 0.0, timeout=case.run.get("timeout", 120.0))
    run = Run(case.endpoint, case.rows, limiter, seed=seed, **case.run).go()
    assert run.seconds <= case.of_ideal * case.ideal
    assert run.lost <= case.lost
    assert len(run.refused) <= case.refused
    assert run.too_soon == 0
    assert limiter.in_flight == 0


def test_slow_agents_are_not_taken_for_a_queue() -> None:
    """Each takes more than half of the time limit: nothing but trying shows whether they wait for each other."""
    seconds = around(80.0, 0.05)
    run = Run(Endpoint(seconds), 400, Limiter(192, 0.0)).go(20_000)
    assert run.most_in_flight > 30
    assert run.lost == 0


def test_fewer_are_sent_where_a_queue_grows_too_long() -> None:
    """An endpoint that becomes slower while it lets others wait: some time out, and then no more do."""
    later = ((20.0, {"seconds": around(2.0, 0.1)}),)
    endpoint = Endpoint(around(0.2, 0.1), places=4, when_full="wait", later=later)
    run = Run(endpoint, 1000, Limiter(192, 0.0, timeout=10.0), timeout=10.0).go()
    assert run.lost < 150  # 90 were in flight when it became slow


def test_slowness_that_is_the_agents_own_changes_nothing_for_long() -> None:
    """Some rows take more than their time, however many are in flight."""
    endpoint = Endpoint(around(4.0, 0.5))
    run = Run(endpoint, 1500, Limiter(64, 0.0, start=64, timeout=10.0), timeout=10.0).go()
    assert run.seconds < 1.25 * schedule(lambda *given: min(endpoint.seconds(*given), 10.0), 1500, 64)


RATE = Ended(End.REFUSED, is_rate=True)
UNAVAILABLE = Ended(End.REFUSED)
LOST = Ended(End.LOST)


def refused_after(*ends: Ended, answers: int = 0, sent: int = 3, start: int = 64) -> Limiter:
    """So many are sent at 0, of which some are answered and then others end otherwise, at 1."""
    limiter = Limiter(start, 0.0, start=start)
    levels = [limiter.sent(0.0) for _ in range(sent)]
    for end in [ANSWERED] * answers + list(ends):
        limiter.ended(end, 1.0, 0.0, levels.pop(0))
    return limiter


@pytest.mark.parametrize("kind", [RATE, UNAVAILABLE])
def test_a_retry_after_holds_back_everyone(kind: Ended) -> None:
    limiter = refused_after(kind._replace(retry_after=7.5))
    assert limiter.delay(1.0) >= 7.5
    limiter.ended(ANSWERED, 2.0, 0.0, 2)  # an answer to another one doesn't shorten it
    assert limiter.delay(2.0) >= 6.5
    limiter.ended(kind._replace(retry_after=0.5), 3.0, 0.0, 3)
    assert limiter.delay(3.0) >= 5.5


@pytest.mark.parametrize("kind", [RATE, UNAVAILABLE])
@pytest.mark.parametrize("retry_after", [3600.0, 99999999999.0])
def test_a_retry_after_is_believed_for_so_long(kind: Ended, retry_after: float) -> None:
    limiter = Limiter(8, 0.0, longest_pause=600.0)
    limiter.ended(kind._replace(retry_after=retry_after), 1.0, 0.0, limiter.sent(0.0))
    assert limiter.delay(1.0) == pytest.approx(600.0)
    assert limiter.held_until == pytest.approx(601.0)


@pytest.mark.parametrize("retry_after", [None, 0.0, 0.001])
def test_an_endpoint_that_is_gone_is_asked_by_one_at_a_time_and_ever_more_seldom(retry_after: float | None) -> None:
    limiter = Limiter(64, 0.0, start=64)
    now, waits = 0.0, []
    for _ in range(40):
        level = limiter.sent(now)
        limiter.ended(UNAVAILABLE._replace(retry_after=retry_after), now, now, level)
        waits.append(limiter.delay(now))
        assert limiter.concurrency == 1
        now += waits[-1] + 0.001
    assert waits[:3] == pytest.approx([0.25, 0.25, 0.25])
    assert waits == pytest.approx(sorted(waits))
    assert 2.0 < waits[-1] <= 5.0
    assert limiter.tries == 40
    level = limiter.sent(now)
    assert limiter.delay(now) > 0.0  # one at a time
    limiter.ended(ANSWERED, now + 0.05, now, level)
    assert (limiter.delay(now + 0.05), limiter.concurrency, limiter.tries) == (0.0, 64, 0)


def test_one_that_is_taken_in_shows_that_the_endpoint_is_back() -> None:
    """Its answer may take minutes."""
    limiter = refused_after(UNAVAILABLE, sent=1)
    limiter.sent(2.0)
    assert limiter.concurrency == 1
    assert 0.0 < limiter.delay(2.0) <= 3.1
    limiter.sent(6.0)
    assert (limiter.concurrency, limiter.delay(6.0)) == (64, 0.0)


def test_where_answers_are_lost_only_an_answer_shows_that() -> None:
    limiter = refused_after(*[LOST] * 5, sent=8)
    assert limiter.concurrency == 1
    for level in (6, 7, 8):
        limiter.ended(LOST, 1.1, 0.0, level)
    limiter.sent(10.0)
    assert limiter.delay(100.0) == math.inf
    limiter.ended(ANSWERED, 101.0, 10.0, 1)
    assert (limiter.concurrency, limiter.delay(101.0)) == (64, 0.0)


@pytest.mark.parametrize(
    ("ends", "concurrency"),
    [
        pytest.param([LOST] * 4, 64, id="some are lost"),
        pytest.param([LOST] * 5, 1, id="many in a row"),
        pytest.param([*[LOST] * 4, ANSWERED, *[LOST] * 4], 64, id="not in a row"),
        pytest.param([ANSWERED, *[ANSWERED._replace(is_doubtful=True)] * 7], 64, id="some are doubtful"),
        pytest.param([ANSWERED, *[ANSWERED._replace(is_doubtful=True)] * 8], 1, id="many in a row are"),
        pytest.param([ANSWERED._replace(is_doubtful=True)] * 20, 64, id="but it has never said anything else"),
        pytest.param([ANSWERED] * 20, 64, id="the agent's own errors"),
        pytest.param([NEVER_LEFT] * 20, 64, id="rows that can't be sent"),
    ],
)
def test_many_in_a_row_are_an_outage(ends: list[Ended], concurrency: int) -> None:
    assert refused_after(*ends, sent=20).concurrency == concurrency


def test_an_agent_that_says_nothing_but_errors_means_it_in_the_end() -> None:
    limiter = refused_after(ANSWERED, *[ANSWERED._replace(is_doubtful=True)] * 8, sent=9)
    now, asked = 1.0, 0
    while now < 40.0:
        now += limiter.delay(now) + 0.001
        limiter.ended(ANSWERED._replace(is_doubtful=True), now, now, limiter.sent(now))
        asked += 1
    assert limiter.concurrency == 64
    assert limiter.tries == 0
    assert asked > 1000


def test_what_never_left_counts_for_nothing() -> None:
    limiter = Limiter(10, 0.0, requests_per_minute=60)
    for _ in range(40):
        limiter.ended(NEVER_LEFT, 0.0, 0.0, limiter.sent(0.0))
    assert (limiter.in_flight, limiter.delay(0.0)) == (0, 0.0)


def test_requests_per_minute_are_kept_beside_all_else() -> None:
    limiter = Limiter(10, 0.0, requests_per_minute=60)
    level = limiter.sent(0.0)
    assert limiter.delay(0.0) == pytest.approx(1.0)
    limiter.ended(ANSWERED, 0.5, 0.0, level)
    assert limiter.delay(0.5) == pytest.approx(0.5)
    limiter.ended(ANSWERED, 300.0, 300.0, limiter.sent(300.0))
    assert limiter.delay(300.0) <= 1.0


@pytest.mark.parametrize("end", [RATE, UNAVAILABLE])
def test_a_first_request_that_is_refused_is_soon_followed_by_another(end: Ended) -> None:
    limiter = Limiter(8, 0.0)
    limiter.ended(end, 0.01, 0.0, limiter.sent(0.0))
    assert limiter.delay(0.01) <= 1.0


def test_a_ceiling_is_kept_and_used_at_once() -> None:
    run = Run(Endpoint(around(0.1)), 300, Limiter(7, 0.0, start=7)).go()
    assert run.most_in_flight == 7


WAITING: dict[str, tuple[Limiter, str | None]] = {
    "nothing": (refused_after(ANSWERED), None),
    "a pause that was asked for": (refused_after(RATE._replace(retry_after=9.0)), "the endpoint refuses more (429)"),
    "a rate": (refused_after(RATE), "the endpoint's rate limit (429)"),
    "a start": (refused_after(UNAVAILABLE, sent=1), "the endpoint is not available"),
    "a gateway without a server": (refused_after(*[LOST] * 5, sent=5), "answers are lost"),
    "an agent that fails": (
        refused_after(ANSWERED, *[ANSWERED._replace(is_doubtful=True)] * 8, sent=9),
        "nothing but errors (500)",
    ),
}


@pytest.mark.parametrize(("limiter", "why"), WAITING.values(), ids=WAITING)
def test_it_says_why_requests_are_held_back(limiter: Limiter, why: str | None) -> None:
    assert limiter.waiting(1.1) == why


def test_it_says_what_a_try_is_for_and_what_the_caller_asked_for() -> None:
    assert refused_after(UNAVAILABLE, sent=1).waiting(5.0) == (
        "the endpoint is not available, one row tries whether it is back"
    )
    limiter = Limiter(8, 0.0, requests_per_minute=60)
    limiter.sent(0.0)
    assert limiter.waiting(0.5) == "requests_per_minute"
    assert limiter.waiting(1.5) is None
