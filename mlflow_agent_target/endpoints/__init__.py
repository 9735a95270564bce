"""One agent, and what a workspace knows of its endpoints.

From the bottom up:
    platform.py       a workspace's REST calls around endpoints and apps
    payloads.py       what creates or changes an endpoint, from MLflow's arguments; pure
    hosts.py          a target's hosts, logged in to at their first use
    routes.py         the way to each agent, asked once: one object for each name
    following.py      one run that outlives a request, followed until it is over
    run_events.py     the events of a run as one stream, however often its connection breaks
    invoking.py       runs started on a DurableAgentServer
    place.py          one endpoint: the way to it, what it serves, the runs that it keeps
    endpoint.py       one endpoint: a caller's inputs sent, and its answer
    access.py         a target as one client sees it: routes, options, endpoints by name
    runs.py           AgentRun: runs started, and picked up again by their ids
    management.py     MLflow's management calls
    openai_client.py  OpenAI's client for the same target and login
"""
