"""Where requests go, and who sends them.

From the bottom up:
    names.py     names of endpoints and apps, checked; pure
    settings.py  what the environment says about requests; the only place with defaults
    login.py     hosts, and the headers that they are sent
    uri.py       a target URI as one checked value
"""
