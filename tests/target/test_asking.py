"""A question that may take long: asked once for all who wait, each for as long as he may."""

from __future__ import annotations

import threading
import time

import pytest

from mlflow_agent_target.target.asking import Asking, TookTooLongError


def test_all_who_come_meanwhile_get_one_answer() -> None:
    asked: list[int] = []
    asking: Asking[int] = Asking(asks_anew=True)

    def question() -> int:
        asked.append(1)
        time.sleep(0.2)
        return 7

    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(asking.ask(question, 5.0))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (answers, len(asked)) == ([7] * 5, 1)
    assert asking.ask(lambda: 8, float("inf")) == 8


@pytest.mark.parametrize("asks_anew", [True, False])
def test_who_has_waited_in_vain_leaves_the_question_behind(asks_anew: bool) -> None:
    ends = threading.Event()
    asking: Asking[str] = Asking(asks_anew)
    with pytest.raises(TookTooLongError):
        asking.ask(lambda: "late" if ends.wait(5) else "", 0.05)
    if not asks_anew:
        ends.set()
    assert asking.ask(lambda: "new", 5.0) == ("new" if asks_anew else "late")
    ends.set()


def test_each_who_waits_gets_an_error_of_his_own() -> None:
    asking: Asking[None] = Asking(asks_anew=True)
    cause = KeyError("why")

    def question() -> None:
        time.sleep(0.1)
        raise ValueError("no") from cause

    caught: list[ValueError] = []

    def ask() -> None:
        try:
            asking.ask(question, 5.0)
        except ValueError as error:
            caught.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(error) for error in caught}) == 3
    assert [(str(error), error.__cause__) for error in caught] == [("no", cause)] * 3
