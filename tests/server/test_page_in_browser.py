"""The page in a real browser, talking to real agents. Needs the extra `browser`, and a Chromium or Chrome."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentStreamEvent

import tests.streams.test_sse as sse
from mlflow_agent_target.formats.registry import INTERFACES
from mlflow_agent_target.server import LocalServer, serve
from mlflow_agent_target.server.page import HEADERS
from mlflow_agent_target.server.page import page as page_for
from tests.conftest import AGENTS, DEMO, user

sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright: the extra 'browser'")
expect = sync_api.expect
Page, Route = sync_api.Page, sync_api.Route

# The cases of the client's own reader.
BODIES = [
    *((case.id, case.values[0]) for case in sse.test_decodes.pytestmark[0].args[1]),
    ("several data lines that end with CRLF", b"data: a\r\ndata: b\r\n\r\n"),
]
STREAMS = sorted((Path(__file__).parents[1] / "streams").glob("*.txt"))
TEXT = "How many words are in this sentence?"
COUNTED = f"You said '{TEXT}': 7 words, by my count_words tool."
HOSTILE = """<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>

[x](javascript:window.hacked=1) [y](data:text/html,z) ![z](https://example.com/z.png) <a href="javascript:1">a</a>

```html"onmouseover=alert(1)
</code></pre><svg onload="window.hacked = 1">
```
"""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
TOKEN = "s3cret-token"
JSON, SSE = "application/json", "text/event-stream"
DELTA = {"type": "response.output_text.delta", "item_id": "m", "delta": "It i"}


def item(value: dict[str, Any]) -> ResponsesAgentStreamEvent:
    return ResponsesAgentStreamEvent(type="response.output_item.done", item=value)


class OfEvents(ResponsesAgent):
    """Streams what a function makes of the input items."""

    def __init__(self, events: Callable[[list[dict[str, Any]]], list[ResponsesAgentStreamEvent]]) -> None:
        self.events = events

    def predict(self, request: Any) -> Any:
        raise NotImplementedError

    def predict_stream(self, request: Any) -> Iterator[ResponsesAgentStreamEvent]:
        yield from self.events([one.model_dump(exclude_none=True) for one in request.input])


def ask_twice(items: list[dict[str, Any]]) -> list[ResponsesAgentStreamEvent]:
    """Asks for two approvals, and then says how they were answered."""
    answers = [one for one in items if one.get("type") == "mcp_approval_response"]
    if not answers:
        asked = {"type": "mcp_approval_request", "arguments": '{"table": "t"}', "server_label": "warehouse"}
        return [item({**asked, "id": f"ask_{name}", "name": name}) for name in ("read_table", "drop_table")]
    said = ", ".join(f"{one['approval_request_id']}: {one['approve']} {one.get('reason')}" for one in answers)
    return [item(ResponsesAgent.create_text_output_item(said, id="m"))]


@pytest.fixture(scope="module")
def served(tracking_store: None) -> Iterator[LocalServer]:
    agents: dict[str, Any] = {
        "words": DEMO / "responses_agent.py",
        "reverser": DEMO / "chat_agent.py",
        "shouter": DEMO / "chat_model.py",
        "tools": AGENTS / "tool_chat_agent.py",
        "slow": AGENTS / "slow_agent.py",
        "failing": AGENTS / "failing_agent.py",
        "approvals": OfEvents(ask_twice),
        "hostile": OfEvents(lambda _: [item(ResponsesAgent.create_text_output_item(HOSTILE, id="m"))]),
    }
    with serve(agents) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    paths = [found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))]
    if not paths:
        pytest.skip("the page's tests need a Chromium or Chrome on the PATH")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=paths[0], args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, served: LocalServer) -> Iterator[Page]:
    """The page, opened. At the end of a test nothing in it has failed, and nothing was blocked."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
    opened.goto(served.url)
    expect(opened.locator(".agents button")).to_have_count(8)
    yield opened
    context.close()
    assert faults == []


def choose(page: Page, agent: str) -> None:
    page.get_by_label("Agent", exact=True).select_option(agent)


def ask(page: Page, text: str) -> dict[str, Any]:
    """Sends a message, waits for the end of the answer, and returns the request's body."""
    message = page.get_by_label("Message to the agent")
    message.fill(text)
    with page.expect_request("**/invocations") as request:
        message.press("Enter")
    ended(page)
    return request.value.post_data_json


def ended(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)


def answer(page: Page) -> Any:
    return page.locator("article .answer").last


def answers_with(page: Page, body: str | bytes, content_type: str = SSE, status: int = 200) -> None:
    """From now on, calls are answered with a scripted body."""
    page.unroute_all()
    page.route("**/invocations", lambda route: route.fulfill(status=status, content_type=content_type, body=body))


def begins_with(page: Page, body: str) -> None:
    """From now on, answers begin with a body and then hang, until `window.breakOff()` breaks them off."""
    page.evaluate(
        """(body) => {
            window.fetch = async (url, { signal }) => new Response(new ReadableStream({ start(stream) {
                stream.enqueue(new TextEncoder().encode(body));
                signal.addEventListener("abort", () => stream.error(signal.reason));
                window.breakOff = () => stream.error(new TypeError("network error"));
            } }));
        }""",
        body,
    )


def frames(*events: Any, done: bool = True) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if done else "")


class TestTalking:
    def test_the_empty_page_says_which_agents_are_here_and_what_to_ask(self, page: Page) -> None:
        expect(page.get_by_role("heading")).to_have_text("8 agents are served here")
        expect(page.locator(".agents")).to_contain_text("reverserChatAgent")
        page.get_by_role("button", name=TEXT).click()
        expect(answer(page)).to_contain_text(COUNTED)

    def test_in_several_turns(self, page: Page) -> None:
        body = ask(page, TEXT)
        assert body == {"input": [user(TEXT)], "stream": True, "databricks_options": {"return_trace": True}}
        expect(answer(page).locator(".text")).to_have_text(COUNTED)
        body = ask(page, "And now?")
        assert [one.get("type", one.get("role")) for one in body["input"]] == [
            *("user", "function_call", "function_call_output", "message", "user")
        ]
        assert body["input"][3]["content"][0]["text"] == COUNTED
        expect(answer(page)).to_contain_text(f"Before that you said '{TEXT}'.")

    @pytest.mark.parametrize(
        ("agent", "said", "text"),
        [
            ("reverser", [{"role": "assistant", "content": "two one"}], "three two one"),
            ("shouter", [{"role": "assistant", "content": "ONE TWO"}], "THREE"),
        ],
    )
    def test_with_agents_of_messages(self, agent: str, said: list[Any], text: str, page: Page) -> None:
        choose(page, agent)
        ask(page, "one two")
        messages = ask(page, "three")["messages"]
        assert [{key: one[key] for key in ("role", "content")} for one in messages] == [
            *(user("one two"), *said, user("three"))
        ]
        assert ("id" in messages[1]) == (agent == "reverser")
        expect(answer(page).locator(".text")).to_have_text(text)

    def test_with_a_chat_agent_that_calls_tools(self, page: Page) -> None:
        choose(page, "tools")
        ask(page, "What is 40 + 2?")
        expect(page.locator(".tool summary")).to_have_text('add{"a": 40, "b": 2} → 42done')
        expect(answer(page).locator(".text")).to_have_text("It is 42.")
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 40, "b": 2}'}}
        assert ask(page, "Thanks")["messages"][1:-1] == [
            {"role": "assistant", "content": "", "id": "m1", "tool_calls": [call]},
            {"role": "tool", "content": "42", "name": "add", "id": "m2", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is 42.", "id": "m3"},
        ]

    def test_each_agent_has_its_conversation_and_a_new_one_forgets_it(self, page: Page) -> None:
        ask(page, TEXT)
        choose(page, "shouter")
        assert ask(page, "hello")["messages"] == [user("hello")]
        choose(page, "words")
        expect(answer(page)).to_contain_text(COUNTED)
        page.get_by_role("button", name="New conversation").click()
        expect(page.get_by_role("heading")).to_be_visible()
        assert ask(page, "hello")["input"] == [user("hello")]

    def test_tool_calls_reasoning_and_numbers_of_an_answer(self, page: Page) -> None:
        ask(page, TEXT)
        expect(page.locator(".tool summary")).to_contain_text("count_words")
        expect(page.get_by_text("Arguments")).to_be_hidden()
        page.locator(".tool summary").click()
        expect(page.locator(".tool pre").first).to_have_text(json.dumps({"text": TEXT}, indent=2))
        expect(page.locator(".tool pre").last).to_have_text("7")
        expect(page.locator(".meta")).to_have_text(
            re.compile(r"^First word [\d.]+ sTotal [\d.]+ s22 tokens \(7 in, 15 out\)Tracetr-[0-9a-f]{32}Copy$")
        )
        expect(page.get_by_role("status")).to_have_text(COUNTED)

    def test_reasoning_tokens_of_several_models_and_why_an_answer_is_incomplete(self, page: Page) -> None:
        usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
        thought = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "I *guess*."}]}
        last = {"usage": usage, "incomplete_details": {"reason": "max_output_tokens"}}
        answers_with(
            page,
            frames(
                {"type": "response.output_item.done", "item": thought},
                {"type": "response.completed", "response": {"usage": usage}},
                {**DELTA, "delta": "So."},
                {"type": "response.incomplete", "response": last},
            ),
        )
        ask(page, "go")
        expect(page.locator(".reasoning em")).to_be_hidden()
        page.locator(".reasoning summary").click()
        expect(page.locator(".reasoning em")).to_have_text("guess")
        expect(page.locator(".meta")).to_contain_text("24 tokens (20 in, 4 out)")
        expect(answer(page)).to_contain_text("Incomplete: max_output_tokens.")

    def test_a_result_of_an_earlier_turns_call_is_shown_with_it(self, page: Page) -> None:
        call = {"type": "function_call", "call_id": "c", "name": "drop", "arguments": '{"table": "t"}'}
        answers_with(page, frames({"type": "response.output_item.done", "item": call}))
        ask(page, "go")
        expect(page.locator(".tool summary")).to_have_text('drop{"table": "t"}no result')
        result = {"type": "function_call_output", "call_id": "c", "output": "gone"}
        answers_with(page, frames({"type": "response.output_item.done", "item": result}))
        assert ask(page, "on")["input"][1] == call
        expect(page.locator(".tool summary").last).to_have_text('drop{"table": "t"} → gonedone')

    @pytest.mark.parametrize("agent", ["words", "reverser"])
    def test_calls_that_share_an_id(self, agent: str, page: Page) -> None:
        events: list[dict[str, Any]] = []
        for number in ("1", "2"):
            items = [
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": number},
                {"type": "function_call_output", "call_id": "c", "output": number * 2},
            ]
            call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": number}}
            deltas = [
                {"id": f"m{number}", "role": "assistant", "content": "", "tool_calls": [call]},
                {"id": f"r{number}", "role": "tool", "content": number * 2, "name": "f", "tool_call_id": "c"},
            ]
            # Each comes twice where that changes nothing.
            said = [{"type": "response.output_item.done", "item": one} for one in items for _ in range(2)]
            events += said if agent == "words" else [{"delta": delta} for delta in deltas]
        choose(page, agent)
        answers_with(page, frames(*events))
        ask(page, "go")
        expect(page.locator(".tool summary")).to_have_text(["f1 → 11done", "f2 → 22done"])
        assert page.evaluate("view.current.turns[0].received.length") == 4

    def test_goes_on_while_another_agent_is_looked_at(self, page: Page) -> None:
        choose(page, "slow")
        page.get_by_label("Message to the agent").fill("0.01")
        page.keyboard.press("Enter")
        choose(page, "words")
        ask(page, TEXT)
        expect(answer(page)).to_contain_text(COUNTED)
        choose(page, "slow")
        expect(answer(page).locator(".text")).to_contain_text("98 99")

    def test_a_new_conversation_leaves_a_running_answer(self, page: Page) -> None:
        choose(page, "slow")
        page.get_by_label("Message to the agent").fill("0.1")
        page.keyboard.press("Enter")
        expect(answer(page).locator(".text")).to_contain_text("0 1")
        with page.expect_event("requestfailed"):
            page.get_by_role("button", name="New conversation").click()
        expect(page.get_by_role("heading")).to_be_visible()
        assert ask(page, "0")["input"] == [user("0")]

    def test_keys(self, page: Page) -> None:
        message = page.get_by_label("Message to the agent")
        expect(message).to_be_focused()
        message.press_sequentially("one")
        message.press("Shift+Enter")
        message.press_sequentially("two")
        expect(message).to_have_value("one\ntwo")
        message.press("Enter")
        expect(page.locator(".user")).to_have_text("one\ntwo")
        ended(page)
        expect(message).to_have_value("")
        message.fill("  \n ")
        message.press("Enter")
        expect(page.locator("article")).to_have_count(1)


class TestStopping:
    @pytest.mark.parametrize("how", ["Escape", "button"])
    def test_what_came_stays_and_the_next_turn_works(self, how: str, page: Page) -> None:
        choose(page, "slow")
        page.get_by_label("Message to the agent").fill("0.1")
        page.keyboard.press("Enter")
        expect(answer(page).locator(".text")).to_contain_text("0 1 2")  # while it streams
        expect(page.get_by_role("button", name="Send")).to_be_hidden()
        if how == "Escape":
            page.keyboard.press("Escape")
        else:
            page.get_by_role("button", name="Stop").click()
        expect(page.locator(".stopped")).to_contain_text("Stopped.")
        expect(page.get_by_label("Message to the agent")).to_be_focused()
        text = answer(page).locator(".text").inner_text()
        assert "99" not in text
        sent = ask(page, "0")["input"]
        assert [sent[1]["role"], sent[1]["status"], sent[1]["content"][0]["text"].strip()] == [
            *("assistant", "incomplete", text)
        ]
        expect(answer(page).locator(".text")).to_contain_text("98 99")

    def test_what_was_stopped_can_be_asked_again(self, page: Page) -> None:
        choose(page, "slow")
        page.get_by_label("Message to the agent").fill("0.05")
        page.keyboard.press("Enter")
        expect(answer(page).locator(".text")).to_contain_text("0 1")
        page.keyboard.press("Escape")
        with page.expect_request("**/invocations") as request:
            page.get_by_role("button", name="Ask again").click()
        assert request.value.post_data_json["input"] == [user("0.05")]
        page.keyboard.press("Escape")
        ended(page)
        expect(page.locator("article")).to_have_count(1)

    def test_a_call_without_its_result_is_not_told_to_the_agent_again(self, page: Page) -> None:
        call = {"type": "function_call", "id": "f", "call_id": "c", "name": "wait", "arguments": "{}"}
        begins_with(page, frames({"type": "response.output_item.done", "item": call}, done=False))
        page.get_by_label("Message to the agent").fill("hi")
        page.keyboard.press("Enter")
        expect(page.locator(".tool summary")).to_have_text("wait{}running")
        page.keyboard.press("Escape")
        expect(page.locator(".tool summary")).to_have_text("wait{}no result")
        assert page.evaluate("view.current.turns[0].received") == []


class TestApprovals:
    @pytest.mark.parametrize("retried", [False, True])
    def test_are_answered_together(self, retried: bool, page: Page) -> None:
        choose(page, "approvals")
        ask(page, "go")
        cards = page.get_by_label("Approval")
        expect(cards.last).to_contain_text("The agent asks to call drop_table of warehouse.")
        cards.first.get_by_role("button", name="Approve").click()
        expect(cards.first).to_contain_text("Approved read_table. It is sent when the other questions are answered.")
        cards.last.get_by_label("Reason").fill("not today")
        if retried:
            answers_with(page, "busy", "text/plain", 503)
        with page.expect_request("**/invocations") as request:
            cards.last.get_by_role("button", name="Deny").click()
        ended(page)
        if retried:
            expect(cards.first.get_by_role("button", name="Approve")).to_be_visible()
            page.unroute_all()
            with page.expect_request("**/invocations") as request:
                page.get_by_role("button", name="Retry").click()
            ended(page)
        assert [one.get("id") for one in request.value.post_data_json["input"][1:3]] == [
            "ask_read_table",
            "ask_drop_table",
        ]
        assert request.value.post_data_json["input"][3:] == [
            {"type": "mcp_approval_response", "approval_request_id": "ask_read_table", "approve": True},
            {
                **{"type": "mcp_approval_response", "approval_request_id": "ask_drop_table", "approve": False},
                "reason": "not today",
            },
        ]
        expect(page.locator(".user").last).to_have_text("Approved read_table.\nDenied drop_table: not today")
        expect(answer(page)).to_contain_text("ask_read_table: True None, ask_drop_table: False not today")
        expect(page.get_by_role("button", name="Approve")).to_have_count(0)


class TestCustomInputs:
    @pytest.mark.parametrize(
        ("text", "says"),
        [('{"a": ', "This is not JSON"), ("[1]", "not a list"), ('"x"', "not a string"), ("null", "not null")],
    )
    def test_bad_ones_are_told_at_once_and_nothing_is_sent(self, text: str, says: str, page: Page) -> None:
        page.get_by_role("button", name="custom_inputs").click()
        field = page.get_by_label("custom_inputs:")
        field.fill(text)
        expect(page.locator("#custom-error")).to_contain_text(says)
        page.get_by_role("button", name="custom_inputs").click()
        page.get_by_label("Message to the agent").fill("hello")
        page.get_by_role("button", name="Send").click()
        expect(field).to_be_focused()
        expect(page.locator("article")).to_have_count(0)
        expect(page.get_by_label("Message to the agent")).to_have_value("hello")
        field.fill(" ")
        expect(page.locator("#custom-error")).to_have_text("")
        assert "custom_inputs" not in ask(page, "hello")

    @pytest.mark.parametrize("agent", ["words", "reverser", "shouter"])
    def test_custom_inputs_and_outputs(self, agent: str, page: Page) -> None:
        choose(page, agent)
        page.get_by_role("button", name="custom_inputs").click()
        page.get_by_label("custom_inputs:").fill('{"big": 12345678901234567890, "float": 2.0}')
        assert ask(page, "hello")["custom_inputs"] == {"big": 12345678901234567890, "float": 2.0}
        expect(page.locator(".drawers pre").first).to_have_text('{\n  "big": 12345678901234567890,\n  "float": 2.0\n}')


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "content_type", "status", "says"),
        [
            ('{"error_code": "NOT_FOUND", "message": "no such"}', JSON, 404, "HTTP 404.*NOT_FOUND: no such"),
            ('{"detail": "wrong key"}', JSON, 400, "HTTP 400.*wrong key"),
            ("<html><title>Bad gateway</title></html>", "text/html", 502, "HTTP 502.*Bad gateway"),
            ("", "text/plain", 500, "HTTP 500.*no body"),
            (frames({"error": "broken"}), SSE, 200, "The agent failed.*broken"),
            (frames({"error": {"code": "c", "message": "m"}}), SSE, 200, "The agent failed.*c: m"),
            (frames({"type": "error", "code": "c", "message": "m"}), SSE, 200, "The agent failed.*c: m"),
            (frames({"type": "response.failed", "response": {"error": {"message": "m"}}}), SSE, 200, "failed.*m"),
            ('event: error\ndata: {"error_code": "C", "message": "m"}\n\n' + frames(), SSE, 200, "failed.*C: m"),
            (frames({"databricks_output": {"error": {"error_code": "C", "message": "m"}}}), SSE, 200, "failed.*C: m"),
            (frames(DELTA, done=False), SSE, 200, r"The stream was cut off.*\[DONE\]"),
            ("data: {nope\n\n", SSE, 200, "can't be read.*{nope"),
            ('{"status": "failed", "output": [], "message": "m"}', JSON, 200, "The agent failed.*m"),
            ("<html>", JSON, 200, "no JSON"),
        ],
    )
    def test_say_what_happened_and_offer_to_retry(
        self, body: str, content_type: str, status: int, says: str, page: Page
    ) -> None:
        answers_with(page, body, content_type, status)
        ask(page, TEXT)
        expect(page.get_by_role("alert").filter(has_text="Retry")).to_have_text(re.compile(says, re.DOTALL))
        expect(page.locator(".user")).to_have_text(TEXT)
        page.unroute_all()
        with page.expect_request("**/invocations") as request:
            page.get_by_role("button", name="Retry").click()
        assert request.value.post_data_json["input"] == [user(TEXT)]
        expect(answer(page)).to_contain_text(COUNTED)
        expect(page.locator("article")).to_have_count(1)
        expect(page.get_by_role("button", name="Retry")).to_have_count(0)

    def test_of_a_real_agent_keep_what_came(self, page: Page) -> None:
        choose(page, "failing")
        ask(page, "later")
        expect(answer(page).locator(".text")).to_have_text("Let me")
        expect(page.locator(".failure")).to_contain_text("the agent's tool is broken")
        assert ask(page, "at once")["input"] == [user("at once")]  # the failed turn is no part of the conversation
        expect(page.get_by_role("button", name="Retry")).to_have_count(1)

    def test_a_connection_that_breaks(self, page: Page) -> None:
        begins_with(page, frames(DELTA, done=False))
        page.get_by_label("Message to the agent").fill(TEXT)
        page.keyboard.press("Enter")
        expect(answer(page).locator(".text")).to_have_text("It i")
        page.evaluate("breakOff()")
        expect(page.locator(".failure")).to_contain_text("The stream was cut off")
        expect(answer(page).locator(".text")).to_have_text("It i")
        expect(page.get_by_role("button", name="Retry")).to_be_visible()

    def test_a_server_that_is_gone(self, page: Page) -> None:
        page.route("**/invocations", lambda route: route.abort())
        ask(page, TEXT)
        expect(page.locator(".failure")).to_contain_text("The server can't be reached")
        page.route("**/serving-endpoints", lambda route: route.abort())
        page.reload()
        expect(page.locator(".failure")).to_contain_text("The server can't be reached")
        page.unroute_all()
        page.get_by_role("button", name="Retry").click()
        expect(page.locator(".agents button")).to_have_count(8)


class TestToken:
    @pytest.fixture(scope="class")
    def locked(self, tracking_store: None) -> Iterator[LocalServer]:
        with serve({"words": DEMO / "responses_agent.py"}, token=TOKEN) as running:
            yield running

    def test_is_asked_for_kept_for_the_tab_and_forgotten(self, locked: LocalServer, page: Page) -> None:
        page.goto(locked.url)
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        expect(page.get_by_label("Message to the agent")).to_be_hidden()
        expect(page.get_by_role("button", name="New conversation")).to_be_disabled()
        for wrong, says in [("nope", "The server refused this token."), ("ключ", "ASCII")]:
            field.fill(wrong)
            field.press("Enter")
            expect(page.locator("#wrong")).to_contain_text(says)
        field.fill(TOKEN)
        field.press("Enter")
        ask(page, TEXT)
        expect(answer(page)).to_contain_text(COUNTED)
        page.get_by_text("This request as Python and curl").click()
        expect(page.locator(".drawers")).to_contain_text('Bearer $AGENT_TARGET_TOKEN"')
        expect(page.locator(".drawers")).to_contain_text("AGENT_TARGET_TOKEN: set it first")
        assert TOKEN not in page.content()
        page.reload()
        expect(page.locator(".agents button")).to_have_count(1)
        other_tab = page.context.new_page()
        other_tab.goto(locked.url)
        expect(other_tab.get_by_label("Token", exact=True)).to_be_visible()
        page.get_by_role("button", name="Forget token").click()
        expect(field).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0
        page.reload()
        expect(field).to_be_visible()

    def test_that_is_refused_amid_a_conversation_is_asked_for_again(self, locked: LocalServer, page: Page) -> None:
        page.goto(locked.url)
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator(".agents button")).to_have_count(1)
        page.evaluate("session.keep('old')")
        page.get_by_label("Message to the agent").fill(TEXT)
        page.keyboard.press("Enter")
        expect(page.locator("#wrong")).to_contain_text("without the right token")
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Retry").click()
        expect(answer(page)).to_contain_text(COUNTED)


class TestTheSameRequestElsewhere:
    MESSAGE = "it's \"quoted\" $HOME `x` \\n 100 % é \u2028 😀 {'a': None}"

    @pytest.fixture
    def snippets(self, page: Page) -> dict[str, str]:
        page.get_by_role("button", name="custom_inputs").click()
        page.get_by_label("custom_inputs:").fill(
            '{"on": true, "off": false, "none": null, "big": 12345678901234567890}'
        )
        ask(page, "first")
        ask(page, self.MESSAGE)
        page.get_by_text("This request as Python and curl").last.click()
        blocks = page.locator("article").last.locator(".drawers .code")
        expect(blocks).to_have_count(3)  # the custom outputs', too
        return {block.locator(".bar span").inner_text(): block.locator("code").text_content() for block in blocks.all()}

    def text(self, page: Page) -> str:
        """The last answer's text, before it became Markdown."""
        return page.evaluate("view.current.turns.at(-1).parts.at(-1).text")

    def test_python(self, snippets: dict[str, str], page: Page) -> None:
        names: dict[str, Any] = {}
        exec(snippets["Python"], names)  # noqa: S102
        assert names["response"].output_text == self.text(page)
        assert names["response"].custom_outputs["big"] == 12345678901234567890
        assert names["response"].custom_outputs["on"] is True

    @pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
    def test_curl(self, snippets: dict[str, str], page: Page) -> None:
        said = subprocess.run(["sh", "-c", snippets["curl"]], capture_output=True, text=True, check=True, timeout=60)
        assert json.dumps(self.text(page))[1:-1] in said.stdout
        assert said.stdout.endswith("data: [DONE]\n\n")

    def test_copies_and_raw_events(self, page: Page) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        ask(page, TEXT)
        page.get_by_text("Events (19)").click()
        expect(page.locator(".events li")).to_have_count(19)
        page.locator(".events summary").first.click()
        expect(page.locator(".events pre").first).to_contain_text('"name": "count_words"')
        page.get_by_label("Copy all events").click()
        lines = page.evaluate("navigator.clipboard.readText()").split("\n")
        assert [json.loads(line)["type"] for line in lines][-1] == "response.completed"
        page.get_by_label("Copy the trace's id").click()
        assert re.fullmatch("tr-[0-9a-f]{32}", page.evaluate("navigator.clipboard.readText()"))

    def test_a_link_to_the_trace_where_mlflows_ui_is_known(self, served: LocalServer, page: Page) -> None:
        html = page_for("http://me:secret@mlflow.test:5000/ui/")
        page.route(f"{served.url}/", lambda route: route.fulfill(body=html, headers=HEADERS, content_type="text/html"))
        page.reload()
        ask(page, TEXT)
        href = page.get_by_role("link", name="Trace in MLflow").get_attribute("href")
        assert re.fullmatch(
            r"http://mlflow\.test:5000/ui/#/experiments/\d+/traces\?selectedEvaluationId=tr-[0-9a-f]{32}", href or ""
        )

    def test_behind_a_path_prefix(self, served: LocalServer, page: Page) -> None:
        def forward(route: Route) -> None:
            route.fulfill(response=route.fetch(url=route.request.url.replace("/proxy/8080", "")))

        page.route("**/proxy/8080/**", forward)
        page.goto(f"{served.url}/proxy/8080/")
        ask(page, TEXT)
        expect(answer(page)).to_contain_text(COUNTED)
        page.get_by_text("This request as Python and curl").click()
        expect(page.locator(".drawers")).to_contain_text(f'get_deploy_client("agent-target:{served.url}/proxy/8080")')


class TestStreams:
    @pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BODIES])
    def test_events_are_found_however_the_bytes_are_cut(self, body: bytes, page: Page) -> None:
        expected = [
            {"name": one[0], "data": one[1].decode(errors="replace")}
            if isinstance(one, tuple)
            else {"name": "", "data": one.decode(errors="replace")}
            for one in sse.decode(body)
        ]
        for size in (1, 2, 3, 1000):
            found = page.evaluate(
                """([bytes, size]) => {
                    const [found, decoder] = [[], new TextDecoder()];
                    const parser = sseParser((data, name) => found.push({ name, data }));
                    for (let at = 0; at < bytes.length; at += size) {
                        parser.push(decoder.decode(new Uint8Array(bytes.slice(at, at + size)), { stream: true }));
                    }
                    parser.push(decoder.decode());
                    parser.end();
                    return found;
                }""",
                [list(body), size],
            )
            assert found == expected

    @pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
    def test_text_and_history_are_what_the_client_makes_of_them(self, path: Path, page: Page) -> None:
        body = path.read_bytes()
        events = [one[1] if isinstance(one, tuple) else one for one in sse.decode(body)]
        interface = next(one for one in INTERFACES if path.stem.startswith(PREFIXES[one.name]))
        said = interface()
        for event in events:
            if event.strip() not in (b"", b"[DONE]"):
                said.add(json.loads(event))
        choose(page, {"ResponsesAgent": "words", "ChatAgent": "reverser", "ChatModel": "shouter"}[interface.name])
        answers_with(page, body)
        ask(page, "go")
        whole = said.answer()
        texts = "view.current.turns[0].parts.filter((part) => part instanceof TextPart && !part.isRefusal)"
        assert page.evaluate(f"{texts}.map((part) => part.text).join('')") == interface.text(whole)
        history = page.evaluate("view.current.turns[0].received")
        expected = whole["choices"] if interface.response_key == "choices" else whole[interface.response_key]
        assert history == [one.get("message", one) for one in expected]

    def test_a_whole_answer_in_place_of_a_stream(self, page: Page) -> None:
        for agent, whole in [
            ("words", {"output": [{"type": "message", "role": "assistant", "content": [{"text": "whole"}]}]}),
            ("reverser", {"messages": [{"role": "assistant", "content": "whole", "id": "m"}]}),
            ("shouter", {"choices": [{"message": {"role": "assistant", "content": "whole"}}]}),
        ]:
            choose(page, agent)
            answers_with(page, json.dumps(whole), JSON)
            ask(page, "go")
            expect(answer(page).locator(".text")).to_have_text("whole")


PREFIXES = {"ResponsesAgent": "responses", "ChatAgent": "chat_agent", "ChatModel": "chat_completions"}


class TestMarkdown:
    @pytest.mark.parametrize(
        ("text", "html"),
        [
            ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
            ("# A *b*\n### c ##\n#no", "<h1>A <em>b</em></h1><h3>c</h3><p>#no</p>"),
            ("**b** *i* ***bi*** __b__ _i_ ~~d~~", "<em>i</em> <em><strong>bi</strong></em> <strong>b</strong>"),
            ("snake_case_name 2 * 3 * 4 **open", "<p>snake_case_name 2 * 3 * 4 **open</p>"),
            ("snake_case_ a _snake_case", "<p>snake_case_ a _snake_case</p>"),
            ("*a **b** c* and *(d)*", "<p><em>a <strong>b</strong> c</em> and <em>(d)</em></p>"),
            (r"\*a\* \`b\` C:\dir", r"<p>*a* `b` C:\dir</p>"),
            ("`a*b*` ``c`d`` `e", "<p><code>a*b*</code> <code>c`d</code> `e</p>"),
            ("- a\n- b\n  - c\n    - d\n- e", "<li>b<ul><li>c<ul><li>d</li></ul></li></ul></li><li>e</li></ul>"),
            ("3. a\n   - b\n4. c", '<ol start="3"><li>a<ul><li>b</li></ul></li><li>c</li></ol>'),
            ("- a\n\n- b\n\n  more\n\nend", "<ul><li>a</li><li><p>b</p><p>more</p></li></ul><p>end</p>"),
            ("text\n- a\n\n1. b", "<p>text</p><ul><li>a</li></ul><ol start=\"1\"><li>b</li></ol>"),
            ("> a\n> > b\nc", "<blockquote><p>a</p><blockquote><p>b<br>c</p></blockquote></blockquote>"),
            ("a\n\n---\n* * *", "<p>a</p><hr><hr>"),
            ("in 2024. not a list\n2024. nor this", "<p>in 2024. not a list<br>2024. nor this</p>"),
            ("a | b\n--|:-:\n`1` | 2 \\| 3\n4", '<th class="">a</th><th class="center">b</th></tr></thead><tbody><tr>'
             '<td class=""><code>1</code></td><td class="center">2 | 3</td></tr></tbody></table></div><p>4</p>'),
            ("[a](https://x.test/y_z 'no')", "<p>[a]("),
            ("[a *b*](https://x.test/y_(z) \"t\")", '>a <em>b</em></a></p>'),
            ("see https://x.test/a_b_c. (https://x.test)", 'href="https://x.test/a_b_c"'),
            ("<https://x.test/> <b>", '>https://x.test/</a> &lt;b&gt;</p>'),
            ("[https://x.test](https://x.test/)", '<p><a href="https://x.test/" target="_blank" rel="noopener noreferrer">https://x.test</a></p>'),
            ("[m](mailto:a@x.test)", 'href="mailto:a@x.test"'),
            ("[a](javascript:alert(1)) [b](/c) [d](//e) [f]", "<p>[a](javascript:alert(1)) [b](/c) [d](//e) [f]</p>"),
            ("[a](java\nscript:1) [b](&#106;avascript:1)", "<p>[a](java<br>script:1) [b](&amp;#106;avascript:1)</p>"),
            ("<script>x</script> &amp; <br>", "<p>&lt;script&gt;x&lt;/script&gt; &amp;amp; <br></p>"),
            ("```py\n<b>\n  x\n```\nend", "<code>&lt;b&gt;\n  x</code></pre></div><p>end</p>"),
            ("~~~~\n```\n~~~~", "<code>```</code>"),
            ("```\nnot closed", "<code>not closed</code>"),
            ("- a\n  ```\n  b\n   c\n  ```\n- d", "<code>b\n c</code></pre></div></li><li>d</li></ul>"),
        ],
    )  # fmt: skip
    def test_becomes_nodes(self, text: str, html: str, page: Page) -> None:
        rendered = """(text) => {
            const at = document.createElement("div");
            renderMarkdown(at, text);
            return at.innerHTML;
        }"""
        whole = page.evaluate(rendered, text)
        assert html in whole
        # As it streams in, piece by piece, it becomes the same.
        grown = """(text) => {
            const at = document.createElement("div");
            for (let end = 0; end <= text.length; end += 1) renderMarkdown(at, text.slice(0, end));
            return at.innerHTML;
        }"""
        assert page.evaluate(grown, text) == whole

    def test_hostile_answers_stay_text(self, page: Page) -> None:
        choose(page, "hostile")
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        ask(page, "go")
        expect(answer(page).locator(".text")).to_contain_text('<img src=x onerror="window.hacked = 1">')
        assert answer(page).locator("img, script, svg, iframe").count() == 0
        links = answer(page).locator("a").evaluate_all("all => all.map(a => [a.href, a.target, a.rel])")
        assert links == [["https://example.com/z.png", "_blank", "noopener noreferrer"]]
        assert page.evaluate("window.hacked") is None
        assert [url for url in requested if not url.endswith("/invocations")] == []

    @pytest.mark.parametrize(
        "text",
        [
            *("[" * 50_000, "[a](" * 20_000, "*a " * 30_000, "*a _b " * 20_000, "> " * 20_000, "- " * 20_000),
            *("![" * 20_000, "**" * 30_000, "<" * 50_000, "a **b " * 20_000, "~~" + "x~~ " * 20_000, "1. a\n" * 20_000),
            *("#" * 50_000, "a" + " " * 50_000, "https://" * 10_000, "\\" * 50_000, "```\n" * 20_001, "> a\n" * 20_000),
            *("|" * 30_000 + "\n" + "-|" * 30_000, "a|b\n" * 20_000, "\n" * 50_000, "a\n" * 20_000),
            "".join("`" * (n % 300) + " " for n in range(2000)),
            "\n".join(" " * (n % 40) + "- a" for n in range(5000)),
        ],
        ids=lambda text: text[:12],
    )
    def test_no_text_takes_long(self, text: str, page: Page) -> None:
        """Not timed: what took quadratic time would take minutes, and fail as a timeout."""
        page.set_default_timeout(20_000)
        page.evaluate("(text) => renderMarkdown(document.createElement('div'), text)", text)


class TestLook:
    @pytest.mark.parametrize("width", [320, 768, 1280])
    def test_nothing_is_wider_than_the_screen(self, width: int, page: Page) -> None:
        page.set_viewport_size({"width": width, "height": 640})
        wide = f"{'x' * 400}\n\n| {'y' * 300} | b |\n|---|---|\n| c | d |\n\n```\n{'z' * 400}\n```\n\n`{'w' * 300}`"
        answers_with(page, frames({"type": "response.output_item.done", "item": {"type": "message", "content": wide}}))
        ask(page, "v" * 400)
        page.get_by_text("Events (1)").click()
        page.get_by_text("This request as Python and curl").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#log").evaluate("log => log.scrollWidth - log.clientWidth") == 0
        for name in ("New conversation", "Light or dark", "Send"):
            box = page.get_by_role("button", name=name).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width

    def test_light_and_dark(self, page: Page) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(ground)
        assert light != dark
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate(ground) == light
        page.reload()
        assert page.evaluate(ground) == light
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate(ground) == dark

    def test_it_scrolls_along_only_for_who_is_at_the_end(self, page: Page) -> None:
        page.set_viewport_size({"width": 320, "height": 500})
        distance = "log => log.scrollHeight - log.scrollTop - log.clientHeight"
        log = page.locator("#log")
        choose(page, "slow")
        for _ in range(2):
            ask(page, "0.005")
            assert log.evaluate(distance) < 2
        page.get_by_label("Message to the agent").fill("0.05")
        page.keyboard.press("Enter")
        expect(answer(page).locator(".text")).to_contain_text("50 51")
        assert log.evaluate(distance) < 48  # of what may have come since the last frame
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        log.evaluate("log => { log.scrollTop = 5; }")
        ended(page)
        expect(answer(page).locator(".text")).to_contain_text("98 99")
        assert log.evaluate("log => log.scrollTop") == 5
        page.get_by_role("button", name="To the end").click()
        assert log.evaluate(distance) < 2
        expect(page.get_by_role("button", name="To the end")).to_be_hidden()


@pytest.fixture(scope="module")
def other_site() -> Iterator[str]:
    """The origin of another server on this machine, whose page has nothing in it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_port}"
        running.shutdown()


ASK = """async ([url, options]) => {
  try { return (await (await fetch(url, {method: "POST", ...options})).text()).slice(0, 2) } catch (e) { return e.name }
}"""


class TestPagesOfOtherSites:
    """What a front end may do, and what a page must not that a developer merely looks at."""

    BODY = json.dumps({"input": [user("delete everything")]})
    AS_JSON: ClassVar[dict[str, str]] = {"Content-Type": "application/json"}

    @pytest.mark.parametrize("is_listed", [False, True])
    def test_only_a_listed_one_reaches_an_agent(self, is_listed: bool, browser: Any, other_site: str) -> None:
        origins = [other_site] if is_listed else []
        with serve({"words": DEMO / "responses_agent.py"}, allowed_origins=origins) as server:
            opened = browser.new_page()
            opened.goto(other_site)
            url = f"{server.url}/serving-endpoints/words/invocations"
            for options in (
                {"mode": "no-cors", "body": self.BODY},
                {
                    "mode": "no-cors",
                    "body": self.BODY,
                    "headers": {"Content-Type": "application/x-www-form-urlencoded"},
                },
            ):
                opened.evaluate(ASK, [url, options])
            assert server.requests.total == 0
            asked = opened.evaluate(ASK, [url, {"body": self.BODY, "headers": self.AS_JSON}])
            assert (asked, server.requests.total) == (('{"', 1) if is_listed else ("TypeError", 0))
            opened.close()
