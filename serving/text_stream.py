"""TextStream: tokens as they come, into text that may be shown."""

from codecs import getincrementaldecoder
from collections.abc import Sequence


class TextStream:
    """Holds back what is no whole character yet, and what may become a stop string."""

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str] = (), ends: frozenset[int] = frozenset()) -> None:
        """Args:
        pieces: the bytes of each token.
        stops: the text ends before the first of these.
        ends: it also ends with one of these tokens, which is no text.
        """
        self._pieces, self._stops, self._ends = pieces, stops, ends
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.has_ended = False
        """Whether a stop string, or a token that ends a text, has come."""

    def add(self, token: int) -> str:
        """The text that may be shown now; bytes that are no UTF-8 are U+FFFD."""
        if token in self._ends:
            self.has_ended = True
            return self.rest()
        self._held += self._decoder.decode(self._pieces[token])
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.has_ended = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        return self._taken(len(self._held) - self._num_doubtful())

    def rest(self) -> str:
        """What was held back and is text after all; a character that never became whole is left out."""
        return self._taken(len(self._held))

    def _num_doubtful(self) -> int:
        """Characters at the end that a stop string may begin with."""
        for length in range(min(max(map(len, self._stops), default=1) - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

    def _taken(self, length: int) -> str:
        shown, self._held = self._held[:length], self._held[length:]
        return shown
