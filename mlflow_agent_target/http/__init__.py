"""One request to one host: sent, tried again, its answer's bytes or an error.

From the bottom up:
    framing.py   an answer's head and chunks, out of bytes; pure
    tcp_info.py  what the kernel knows of a connection
    sockets.py   one connection: a request written, an answer read, within one deadline
    pool.py      connections to one host: proxies, certificates, which are free
    broken.py    what a failure below HTTP means; pure
    body.py      the bytes of an answer as they arrive, given up at any time
    statuses.py  what a status means, and whether the agent may have run; pure
    replies.py   what a success means: a JSON value, or an error; pure
    retry.py     when again, after how long; pure
    steps.py     what a call waits for, and the driver that performs it
    options.py   how a call is made
    exchange.py  logged in, sent, judged, sent again: JSON or bytes come out
"""
