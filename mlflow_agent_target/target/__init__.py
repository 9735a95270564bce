"""Where requests go, and who sends them.

From the bottom up:
    names.py          names of endpoints and apps, checked; pure
    settings.py       what the environment says about requests; the only place with defaults
    addresses.py      base URLs and workspaces' hosts, checked
    asking.py         a question that may take long, asked once for all who wait for it
    failed_logins.py  what it means that databricks-sdk can't log in; pure
    profiles.py       the profiles of `~/.databrickscfg`
    login.py          a host, and the headers that it is sent
    sdk.py            a workspace's login, as databricks-sdk finds it
    uri.py            a target URI as one checked value
"""
