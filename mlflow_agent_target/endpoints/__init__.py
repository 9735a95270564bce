"""One agent, and what a workspace knows of its endpoints.

From the bottom up:
    platform.py       a workspace's REST calls around endpoints and apps
    payloads.py       what creates or changes an endpoint, from MLflow's arguments; pure
    hosts.py          a target's hosts, logged in to at their first use
    routes.py         the way to each agent, asked once: one object for each name
    endpoint.py       one endpoint: a caller's inputs sent, and its answer
    access.py         a target as one client sees it: routes, options, endpoints by name
    management.py     MLflow's management calls
    openai_client.py  OpenAI's client for the same target and login
"""
