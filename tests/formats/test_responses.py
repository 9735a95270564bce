"""A ResponsesAgent's stream: what is said is in the answer once, whichever events bring it."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_agent_target.formats.responses import ResponsesAgent
from mlflow_agent_target.streams.stream import AgentStream
from tests.formats.recorded import CALL, Recorded, choice, delta, done, frames, message


@pytest.mark.parametrize(
    ("events", "pieces"),
    [
        pytest.param([delta("a"), delta("b"), done(message("m", "ab"))], ["a", "b"], id="deltas, then the done item"),
        pytest.param([delta("a"), done(message("m", "ab"))], ["a", "b"], id="the done item knows more"),
        pytest.param([delta("a", "x"), done(message("y", "a"))], ["a"], id="the done item has another id"),
        pytest.param([delta("a"), done(message("m", "A"))], ["a"], id="the done item says it otherwise"),
        pytest.param(
            [delta("a"), {"type": "response.output_text.done", "item_id": "m", "text": "ab"}, done(message("m", "ab"))],
            ["a", "b"],
            id="the text is done before the item",
        ),
        pytest.param(
            [delta("a"), done(message("m", "a")), delta("b"), done(message("m", "b"))],
            ["a", "b"],
            id="two messages share a placeholder id",
        ),
        pytest.param(
            [delta("a"), {"type": "response.completed", "response": {"output": [message("m", "a")]}}],
            ["a"],
            id="only response.completed brings the item",
        ),
        pytest.param([delta("a")], ["a"], id="no done item ever comes"),
        pytest.param(
            [delta("a"), {"type": "response.output_text.done", "item_id": "m", "text": "ab"}, delta("c")],
            ["a", "b", "c"],
            id="a piece comes after the text was done",
        ),
        pytest.param([delta("a ", "x"), done(message("y", "a"))], ["a "], id="another id, and other spaces"),
        pytest.param(
            [done(CALL), {"type": "response.completed", "response": {"output": [CALL, message("m", "a")]}}],
            ["a"],
            id="response.completed brings what no done item has brought",
        ),
        pytest.param(
            [done(message("m", "a")), {"type": "response.completed", "response": {"output": [message("n", "a")]}}],
            ["a"],
            id="response.completed knows the item by another id",
        ),
        pytest.param(
            [delta("a"), {"type": "response.created"}, delta("b", "n"), done(message("n", "b"))],
            ["a", "b"],
            id="an inner response without its done item",
        ),
        pytest.param([{"type": "keepalive"}, delta("a")], ["a"], id="an event of no interface comes first"),
        pytest.param([choice(message={"content": "ab"})], ["ab"], id="a chat model that can't stream"),
        pytest.param(
            [choice(delta={"content": "a"}), choice(delta={"content": "b"}, message={"content": "abc"})],
            ["a", "bc"],
            id="the whole message beside its last piece",
        ),
    ],
)
def test_text_is_never_said_twice_and_never_lost(events: list[dict[str, Any]], pieces: list[str]) -> None:
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream.text_stream) == pieces
    final = stream.get_final_response().output_text
    assert final.lower().strip() == "".join(pieces).strip()


def part(kind: str, index: int, **text: str) -> dict[str, Any]:
    return {"type": f"response.output_text.{kind}", "item_id": "m", "content_index": index, **text}


def test_the_parts_of_a_message_are_kept_apart() -> None:
    events = [part("delta", 0, delta="One."), part("done", 0, text="One."), part("done", 1, text="Two.")]
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream.text_stream) == ["One.", "Two."]
    content = stream.get_final_response()["output"][0]["content"]
    assert [text["text"] for text in content] == ["One.", "Two."]
    both = {**message("m", ""), "content": [{"type": "output_text", "text": text} for text in ("One.", "Two.")]}
    stream = AgentStream(Recorded(frames(*events, done(both))))
    assert list(stream.text_stream) == ["One.", "Two."]
    assert stream.get_final_response()["output"] == [both]


def test_a_message_without_text_is_there_once() -> None:
    stream = AgentStream(Recorded(frames(delta(""), done(message("m", "")))))
    assert stream.get_final_response()["output"] == [message("m", "")]


def added(call_id: str) -> dict[str, Any]:
    item = {"type": "function_call", "id": "__fake_id__", "call_id": call_id, "name": "f"}
    return {"type": "response.output_item.added", "item": item}


def completed(*output: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"output": list(output)}}


OTHER_CALL = {**CALL, "call_id": "c2"}


@pytest.mark.parametrize(
    ("events", "output"),
    [
        pytest.param(
            [done(message("m", "a")), completed(message("x", "b"), message("m", "a"))],
            [message("x", "b"), message("m", "a")],
            id="an item is known by what it says before it is by its type",
        ),
        pytest.param(
            [done(CALL), completed({**OTHER_CALL, "id": "n"})],
            [CALL, {**OTHER_CALL, "id": "n"}],
            id="another call is another item",
        ),
        pytest.param(
            [delta("ab", "x"), done(message("y", "a"))], [message("y", "a")], id="the item says less than its pieces"
        ),
        pytest.param(
            [added("c1"), added("c2"), done(OTHER_CALL)],
            [{**added("c1")["item"], "arguments": ""}, OTHER_CALL],
            id="calls that share a placeholder id",
        ),
    ],
)
def test_each_item_is_there_once(events: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    answer = ResponsesAgent()
    for event in events:
        answer.add(event)
    assert answer.answer()["output"] == output


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([{**delta("a"), "id": "r"}], {"id": "r"}),
        ([delta("a"), {"model": "m", "usage": {"input_tokens": 1}}], {"model": "m", "usage": {"input_tokens": 1}}),
        ([{"type": "response.incomplete", "response": {"status": "incomplete"}}], {"status": "incomplete"}),
        ([], {"custom_outputs": {"a": 1}}),
    ],
)
def test_what_events_say_of_the_whole_answer_is_kept(events: list[dict[str, Any]], says: dict[str, Any]) -> None:
    answer = ResponsesAgent({"custom_outputs": {"a": 1}})
    for event in events:
        if answer.add_text(event) is None:
            answer.add(event)
    assert answer.answer().items() >= says.items()


MESSAGE = {"type": "message", "role": "assistant", "content": []}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
CREATED = {"type": "response.created", "response": {}}
REAL_CALL = {**CALL, "id": "f"}


def at(index: int, event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "output_index": index}


def begun(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.added", "item": item}


def text_done(text: str, item_id: str) -> dict[str, Any]:
    return {"type": "response.output_text.done", "item_id": item_id, "text": text}


def search(item_id: str) -> dict[str, Any]:
    return {"type": "web_search_call", "id": item_id, "status": "completed"}


# What came, the pieces of text, the items.
ORDERS = {
    "a call ends before its message": (
        [at(0, delta("a")), at(1, done(REAL_CALL)), at(0, done(message("m", "a")))],
        ["a"],
        [message("m", "a"), REAL_CALL],
    ),
    "the same, without numbers": (
        [delta("a"), done(REAL_CALL), done(message("m", "a"))],
        ["a"],
        [message("m", "a"), REAL_CALL],
    ),
    "a message's pieces come after a call of a higher number": (
        [at(1, done(REAL_CALL)), at(0, delta("a")), at(0, done(message("m", "a")))],
        ["a"],
        [message("m", "a"), REAL_CALL],
    ),
    "a message that never ends": (
        [delta("a", "m"), done(REAL_CALL), done(RESULT), delta("b", "n"), done(message("n", "b"))],
        ["a", "b"],
        [message("m", "a"), REAL_CALL, RESULT, message("n", "b")],
    ),
    "numbers begin again without a word": (
        [
            at(0, done(message("m", "a"))),
            at(1, done(REAL_CALL)),
            at(0, delta("b", "n")),
            at(0, done(message("n", "b"))),
        ],
        ["a", "b"],
        [message("m", "a"), REAL_CALL, message("n", "b")],
    ),
    "numbers begin again after a result": (
        [at(1, done(REAL_CALL)), RESULT, at(0, delta("b", "n")), at(0, done(message("n", "b")))],
        ["b"],
        [REAL_CALL, RESULT, message("n", "b")],
    ),
    "results come while calls go on": (
        [
            at(0, begun({**REAL_CALL, "arguments": ""})),
            at(1, begun({**OTHER_CALL, "id": "g", "arguments": ""})),
            at(0, done(REAL_CALL)),
            RESULT,
            at(1, done({**OTHER_CALL, "id": "g"})),
            {**RESULT, "call_id": "c2"},
        ],
        [],
        [REAL_CALL, {**OTHER_CALL, "id": "g"}, RESULT, {**RESULT, "call_id": "c2"}],
    ),
    "a call is told after its result": ([RESULT, done(REAL_CALL)], [], [REAL_CALL, RESULT]),
    "the end of the response has the order": (
        [
            done(search("b")),
            delta("a"),
            done(message("m", "a")),
            completed(search("a"), search("b"), message("m", "a")),
        ],
        ["a"],
        [search("a"), search("b"), message("m", "a")],
    ),
    "a result stays behind its call": (
        [done(REAL_CALL), RESULT, done(message("m", "a")), completed(message("m", "a"), REAL_CALL)],
        ["a"],
        [message("m", "a"), REAL_CALL, RESULT],
    ),
    "each response has its order": (
        [
            *(CREATED, done(message("m", "a")), completed(message("m", "a"))),
            *(CREATED, done(search("b")), completed(search("a"), search("b"))),
        ],
        ["a"],
        [message("m", "a"), search("a"), search("b")],
    ),
    "an item that has only begun": ([begun(search("a"))], [], [search("a")]),
    "a message that has only begun": ([begun({**MESSAGE, "id": "m"}), done(search("a"))], [], [search("a")]),
    "told to have begun twice": ([begun(REAL_CALL), begun(REAL_CALL), done(REAL_CALL)], [], [REAL_CALL]),
}
IDS = {
    "another id with each event, numbered": (
        [
            *(at(0, begun({**MESSAGE, "id": "1"})), at(0, delta("a", "2")), at(0, delta("b", "3"))),
            *(at(0, text_done("ab", "4")), at(0, done(message("5", "ab"))), completed(message("6", "ab"))),
        ],
        ["a", "b"],
        [message("5", "ab")],
    ),
    "another id with each event, without numbers": (
        [delta("a", "1"), delta("b", "2"), delta("c", "3"), done(message("4", "abc"))],
        ["a", "b", "c"],
        [message("4", "abc")],
    ),
    "the same, where the text ends first": (
        [delta("a", "1"), delta("b", "2"), text_done("ab", "3"), done(message("4", "ab"))],
        ["a", "b"],
        [message("4", "ab")],
    ),
    "the same, with only the end of the response": (
        [delta("a", "1"), delta("b", "2"), completed(message("4", "ab"))],
        ["a", "b"],
        [message("4", "ab")],
    ),
    "the same, and told otherwise": (
        [at(0, delta("a", "1")), at(0, delta("b", "2")), at(0, done(message("4", "A B")))],
        ["a", "b"],
        [message("4", "A B")],
    ),
    "an id that items share, numbered": (
        [
            *(at(0, delta("a")), at(1, delta("b")), at(0, delta("c")), at(1, delta("d"))),
            *(at(0, done(message("m", "ac"))), at(1, done(message("m", "bd")))),
        ],
        ["a", "b", "c", "d"],
        [message("m", "ac"), message("m", "bd")],
    ),
    "an id that items share, ended late": (
        [delta("a"), delta("b"), delta("c"), done(message("m", "a")), done(message("m", "b")), done(message("m", "c"))],
        ["a", "b", "c"],
        [message("m", "a"), message("m", "b"), message("m", "c")],
    ),
    "the same, items with ids": (
        [delta("a"), delta("b"), done(message("x", "a")), done(message("y", "bc"))],
        ["a", "b", "c"],
        [message("x", "a"), message("y", "bc")],
    ),
    "an id that items share, with only the end of the response": (
        [delta("a"), delta("b"), completed(message("m", "a"), message("m", "b"))],
        ["a", "b"],
        [message("m", "a"), message("m", "b")],
    ),
    "an id that items share, and the end of a text": (
        [delta("a"), delta("b"), text_done("b", "m"), completed(message("m", "a"), message("m", "b"))],
        ["a", "b"],
        [message("m", "a"), message("m", "b")],
    ),
    "a number that all items have": (
        [
            *(at(0, delta("a", "m")), at(0, delta("b", "n"))),
            *(at(0, done(message("m", "a"))), at(0, done(message("n", "b")))),
        ],
        ["a", "b"],
        [message("m", "a"), message("n", "b")],
    ),
    "another number at the end": (
        [at(0, delta("a")), at(1, done(message("m", "a")))],
        ["a"],
        [message("m", "a")],
    ),
    "a text that begins as another": (
        [at(0, delta("a", "m")), at(1, begun({**MESSAGE, "id": "n"})), at(1, done(message("n", "ab")))],
        ["a", "ab"],
        [message("m", "a"), message("n", "ab")],
    ),
    "pieces without ids": (
        [
            *(begun({**MESSAGE, "id": "m"}), {**delta("a"), "item_id": None}),
            *(begun({**MESSAGE, "id": "n"}), {**delta("b"), "item_id": None}, {**delta("c"), "item_id": None}),
            completed(message("m", "a"), message("n", "bc")),
        ],
        ["a", "b", "c"],
        [message("m", "a"), message("n", "bc")],
    ),
    "a blank text under another id": (
        [begun({**MESSAGE, "id": "m"}), delta("\n", "x"), done(message("m", "\n"))],
        ["\n"],
        [message("m", "\n")],
    ),
    "pieces under another id than their item's, twice": (
        [
            *(begun({**MESSAGE, "id": "m"}), delta("a", "x"), done(message("m", "a"))),
            *(done(search("s")), begun({**MESSAGE, "id": "m"}), delta("b", "y"), done(message("m", "b"))),
        ],
        ["a", "b"],
        [message("m", "a"), search("s"), message("m", "b")],
    ),
    "arguments under another id": (
        [
            begun({**REAL_CALL, "arguments": ""}),
            {"type": "response.function_call_arguments.delta", "item_id": "x", "delta": '{"a": 1}'},
            done(REAL_CALL),
        ],
        [],
        [REAL_CALL],
    ),
    "half a character, then the item": (
        [delta("a\ud83d"), done(message("m", "a😀b"))],
        ["a", "😀b"],
        [message("m", "a😀b")],
    ),
    "half a character, twice": (
        [delta("a\ud83d"), delta("\ude00\ud83d"), delta("\ude01b")],
        ["a", "😀", "😁b"],
        [message("m", "a😀😁b")],
    ),
    "an agent's own end lists all again": (
        [
            *(CREATED, delta("a"), done(message("m", "a")), completed(message("m", "a"))),
            *(CREATED, done(REAL_CALL), completed(REAL_CALL), RESULT),
            completed(message("m", "a"), REAL_CALL, RESULT),
        ],
        ["a"],
        [message("m", "a"), REAL_CALL, RESULT],
    ),
}


@pytest.mark.parametrize(("events", "pieces", "output"), [*ORDERS.values(), *IDS.values()], ids=[*ORDERS, *IDS])
def test_items_stand_in_order_and_texts_are_told_once(
    events: list[dict[str, Any]], pieces: list[str], output: list[dict[str, Any]]
) -> None:
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream.text_stream) == pieces
    assert stream.get_final_response()["output"] == output


def numbered(*numbers: int, of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**of[number], "sequence_number": number} for number in numbers]


SAID = [CREATED, delta("a"), delta("b"), done(message("m", "ab")), completed(message("m", "ab"))]
AGAIN = [CREATED, delta("a"), delta("c"), done(message("m", "ac")), completed(message("m", "ac"))]


@pytest.mark.parametrize(
    ("events", "text"),
    [
        pytest.param(numbered(0, 1, 2, 3, 4, of=SAID), "ab", id="each once"),
        pytest.param(numbered(0, 1, 1, 1, 2, 3, 4, of=SAID), "ab", id="one again"),
        pytest.param(numbered(0, 1, 2, 0, 1, 2, 3, 4, of=SAID), "ab", id="all so far again"),
        pytest.param(numbered(0, 1, 2, 3, 1, 2, 3, 4, 4, of=SAID), "ab", id="the item and the end again"),
        pytest.param(numbered(0, 1, 2, 3, 4, of=SAID) + numbered(0, 1, 2, 3, 4, of=AGAIN), "abac", id="anew"),
        pytest.param(
            numbered(1, 2, 3, of=SAID)
            + numbered(1, 2, 3, of=[CREATED, delta("x"), delta("c"), done(message("m", "xc"))]),
            "abxc",
            id="anew, without a word",
        ),
        pytest.param([{**delta(text), "sequence_number": 0} for text in "abc"], "abc", id="0 with every event"),
        pytest.param([{**delta("a"), "sequence_number": number} for number in (0, 5, 5000, 7)], "aaaa", id="gaps"),
        pytest.param(
            [{**delta("a"), "sequence_number": number} for number in ("0", "0", None, [1], 1.5)],
            "aaaaa",
            id="no numbers",
        ),
    ],
)
def test_an_event_that_is_sent_again_says_nothing_new(events: list[dict[str, Any]], text: str) -> None:
    stream = AgentStream(Recorded(frames(*events)))
    assert list(stream) == events
    again = AgentStream(Recorded(frames(*events)))
    said = "".join(again.text_stream)
    assert (said, again.get_final_response().output_text) == (text, said)


REASON = {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["incomplete"], {"status": "incomplete", "incomplete_details": REASON}),
        (["incomplete", "completed"], {"status": None, "incomplete_details": None}),
        (["completed", "incomplete"], {"status": "incomplete", "incomplete_details": REASON}),
    ],
)
def test_the_last_inner_response_says_whether_the_answer_is_incomplete(kinds: list[str], says: dict[str, Any]) -> None:
    answer = ResponsesAgent()
    for kind in kinds:
        details = {"incomplete_details": REASON} if kind == "incomplete" else {}
        answer.add({"type": f"response.{kind}", "response": details})
    assert {key: answer.answer().get(key) for key in says} == says
