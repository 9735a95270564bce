"""The text that a stream's reader is given: whole characters, and none of it twice. Pure."""

from __future__ import annotations

from mlflow_agent_target.formats.growing_text import is_half, with_pairs_joined
from mlflow_agent_target.formats.pieces import rest


class GivenText:
    """Decides what of an answer's text is given when.

    Attributes:
        half: Half of a character, with which the last text ended: its other half comes with the next.
        before: The text that was given before the server ran the agent anew; None where it did not. From then on none
            is given until the answer is whole: it may be the same again, or go on where it was.

    Args:
        is_rest: Whether the reader has the text before from elsewhere, so that nobody here knows how much that is.
    """

    def __init__(self, is_rest: bool = False) -> None:
        self._is_rest = is_rest
        self.half = ""
        self.before: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether a text is given as it comes, if it ends with no half of a character."""
        return not self.half and self.before is None

    def of(self, text: str) -> str:
        """Return what is given of a text that an event brings."""
        if not text or self.before is not None:
            return ""
        if self.half and text[0].encode("utf-16-be", "surrogatepass").startswith(
            self.half.encode("utf-16-be", "surrogatepass")
        ):
            self.half = ""  # an item that came whole has told the character again
        text = with_pairs_joined(self.half + text)
        self.half = text[-1] if is_half(text[-1]) else ""
        return text.removesuffix(self.half)

    def begin_again(self, given: str) -> None:
        """Give nothing more: the server runs the agent anew.

        Args:
            given: The text so far.
        """
        if self.before is None:
            self.before = given

    def fits(self, answer: str) -> bool:
        """Return whether what was given is the beginning of the answer's whole text, as far as that must be."""
        return self.before is None or (answer.startswith(self.before) and not self._is_rest)

    def late(self, answer: str, given: str) -> str:
        """Return what is given at the end.

        Args:
            answer: The answer's whole text.
            given: What the events have said of it.
        """
        return "" if self._is_rest else rest(answer, given if self.before is None else self.before)
