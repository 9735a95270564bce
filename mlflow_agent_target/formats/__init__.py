"""What agents are told, and what they say. Pure: knows no HTTP and no MLflow.

From the bottom up:
    failures.py          a failure that an answer or event reports; why one is none; the key that a refusal asks for
    growing_text.py      a text that grows piece by piece
    pieces.py            chat messages and their deltas, added up
    drafts.py            an output item, as far as it has come
    order.py             where items stand
    output.py            all output items of a stream, added up
    repeats.py           events that a server sends again
    interface.py         what an interface is
    responses.py         ResponsesAgent
    chat_agent.py        ChatAgent
    chat_completions.py  ChatCompletions, MLflow's ChatModel among them
    durable_agent.py     DurableAgentServer
    registry.py          all interfaces, found by task, answer, event, request key
    answers.py           AgentResponse: a whole answer, read the same whatever the interface
    schemas.py           the request schemas, which a payload is checked against
    inputs.py            what a caller may give, as a checked request
    request_settings.py  limits, tools and the form of the answer, from one request schema to the other
    conversion.py        a request from one schema to the other
    invocations.py       a request to a DurableAgentServer
    runs.py              runs that outlive a request: where servers keep them, and what they say of them
"""
