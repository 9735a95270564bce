"""An answer as it comes.

From the bottom up:
    sse.py         bytes to server-sent events; pure
    given_text.py  the text that a reader is given, none of it twice; pure
    reader.py      events checked and added up, and whether they are a whole answer; pure
    stream.py      AgentStream: for a reader who may leave at any time, in any thread
"""
