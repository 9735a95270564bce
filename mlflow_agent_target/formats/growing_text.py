"""A text that grows piece by piece. Pure."""

from __future__ import annotations

import re

# The pieces of a growing text are joined when there are this many, or when one is this long.
PIECES_APART = 256
LONG_PIECE = 4096
# Blocks are not added to the text before they have this many characters, however short the text is.
_LONG_BLOCK = 65_536
_PAIRS = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class GrowingText:
    """A text that grows piece by piece and takes little more memory than its characters need.

    A list of all pieces would hold a small string for each, ten times as large as its text. Adding each piece to one
    long string might copy that string each time. So the last few pieces wait in a list, are joined to a block, and the
    blocks are added to the text when together they are a sixteenth of it.

    One thread adds pieces. Any thread, or a signal handler, may ask for the whole text meanwhile.
    """

    def __init__(self, text: str = "") -> None:
        self.pieces: list[str] = []
        """The last pieces. `write` adds one; whoever does so here, to save the call, calls `join` as `write` does."""
        # The whole text is `_text`, then `_blocks`, then `pieces`. Text moves from one to another in lines that hold no
        # call and no loop. CPython switches threads and runs signal handlers only at calls and loops, so nobody sees
        # text twice or not at all. `_changes` counts the moves: who finds it changed has been overtaken.
        self._text = text
        self._blocks: list[str] = []
        self._size_of_blocks = 0
        self._changes = 0

    def write(self, piece: str) -> None:
        """Add a piece."""
        self.pieces.append(piece)
        if len(self.pieces) >= PIECES_APART or len(piece) >= LONG_PIECE:
            self.join()

    def join(self) -> None:
        """Make one string of the pieces."""
        changes, count = self._changes, len(self.pieces)
        block = "".join(self.pieces[:count])
        size = len(block)
        if self._changes == changes:
            self._changes = changes + 1
            self._blocks += [block]
            self._size_of_blocks += size
            del self.pieces[:count]
        if self._size_of_blocks > max(_LONG_BLOCK, len(self._text) // 16):
            self._join_all()

    def _join_all(self) -> None:
        changes, blocks, pieces = self._changes, len(self._blocks), len(self.pieces)
        more = "".join([*self._blocks[:blocks], *self.pieces[:pieces]])
        if self._changes == changes:
            self._changes = changes + 1
            # CPython extends a string in place, without a second copy, if one local variable alone refers to it.
            text = self._text
            self._text = ""
            text += more
            self._text = text
            self._size_of_blocks = 0
            del self._blocks[:blocks]
            del self.pieces[:pieces]

    def whole(self) -> str:
        """Return the whole text, as the one string that is kept."""
        if self._blocks or self.pieces:
            self._join_all()
        return with_pairs_joined("".join([self._text, *self._blocks, *self.pieces]))


def is_half(char: str) -> bool:
    """Return whether a character is the first half of a surrogate pair, whose other half comes with the next text."""
    return "\ud800" <= char <= "\udbff"


def with_pairs_joined(text: str) -> str:
    """Return a text in which each surrogate pair, of which the halves came one after the other, is a character."""
    if text.isascii() or not _PAIRS.search(text):
        return text
    return _PAIRS.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
