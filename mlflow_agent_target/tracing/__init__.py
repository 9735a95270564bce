"""MLflow traces of calls.

From the bottom up:
    guard.py        a call is never failed by its trace
    agent_trace.py  the agent's own trace: where it is kept, how it is read, and copied below the span of a call
    call_span.py    the span of one call, and what the call sends for it
    spans.py        one span for each call, and the switch that turns them on
"""
