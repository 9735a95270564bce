"""MLflow traces of calls.

From the bottom up:
    guard.py        a call is never failed by its trace
    one_writer.py   what MLflow writes of traces to a database, one thread at a time
    context.py      the span that the caller is in, and whether it is recorded
    agent_trace.py  the agent's own trace: how it is read, and copied below the span of a call
    call_span.py    the span of one call, and what the call sends for it
    spans.py        one span for each call, and the switch that turns them on
"""
