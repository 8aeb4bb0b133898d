"""The pieces that a filter or an order is made of: fields, comparators, values, the word AND.

The scanner knows no entity and no rule about what may be compared with what; that is
`filter_language.py`. It reads a text once, from left to right, and never goes back, so its time is
linear in the length of the text.
"""

import re
from dataclasses import dataclass
from typing import Literal

from events.errors import InvalidParameterValue

# A quote inside a quoted text is written twice or after a backslash, and stays as it was written:
# MLflow compares with the raw text between the outer quotes, and so does Runfold.
_SINGLE = r"'(?:''|\\'|[^'])*'"
_DOUBLE = r'"(?:""|\\"|[^"])*"'
_BACKTICK = r"`(?:``|[^`])*`"

_SPACE = re.compile(r"\s*")
_FIRST_PIECE = re.compile(rf"{_BACKTICK}|{_DOUBLE}|\w+")
_NEXT_PIECE = re.compile(rf"\.({_BACKTICK}|{_DOUBLE}|{_SINGLE}|\w+)")
_SYMBOL = re.compile(r"[<>=!~]+")
_WORD = re.compile(r"\w+")
_TEXT = re.compile(rf"{_SINGLE}|{_DOUBLE}")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.])", re.ASCII)

# SQL's words between a field and a value, longest first. Some are known only so that the message
# can name them as a comparator that is not offered.
_WORD_COMPARATORS = (
    ("IS", "NOT", "NULL"),
    ("IS", "NULL"),
    ("NOT", "IN"),
    ("NOT", "LIKE"),
    ("NOT", "ILIKE"),
    ("NOT", "RLIKE"),
    ("IN",),
    ("LIKE",),
    ("ILIKE",),
    ("RLIKE",),
    ("REGEXP",),
    ("BETWEEN",),
)

ValueForm = Literal["text", "number", "word", "list"]


@dataclass(frozen=True)
class Field:
    """What stands left of a comparator: `metrics.loss` has the prefix `metrics`, the key `loss`."""

    prefix: str | None
    key: str
    written: str


@dataclass(frozen=True)
class Value:
    """What stands right of a comparator. `items` is empty unless the form is `list`."""

    form: ValueForm
    text: str
    items: tuple[str, ...] = ()


def unquoted(text: str) -> str:
    """A key without the quotes around it: first `"` or `'`, then backticks inside of them."""
    for quotes in ("'\"", "`"):
        if len(text) >= 2 and text[0] == text[-1] and text[0] in quotes:
            text = text[1:-1]
    return text


class Scanner:
    """Reads the pieces of one text in turn. Each `take_…` raises if its piece does not follow."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._skip_space()

    @property
    def ended(self) -> bool:
        """Whether nothing but white space is left."""
        return self.at == len(self.text)

    def take_field(self) -> Field:
        """The next field; its key may be quoted with backticks, double or single quotes."""
        start = self.at
        first = self._take(_FIRST_PIECE)
        if first is None:
            raise InvalidParameterValue(
                f"Expected a field such as metrics.loss or params.`my key` {self._here()}"
            )
        pieces = [first]
        while (piece := _NEXT_PIECE.match(self.text, self.at)) is not None:
            pieces.append(piece.group(1))
            self.at = piece.end()
        written = self.text[start : self.at]
        if self.text[self.at : self.at + 1] == ".":
            raise InvalidParameterValue(
                f"A key is missing after '{written}.'; a key with other characters than letters, "
                "digits, '_' and '.' goes between backticks, as in metrics.`my key`"
            )
        self._skip_space()
        return _field_of(pieces, written)

    def take_comparator(self) -> str:
        """The next comparator: a symbol as it is written, or words in capitals."""
        if (symbol := self._take(_SYMBOL)) is not None:
            self._skip_space()
            return symbol
        for words in _WORD_COMPARATORS:
            if self.take_words(*words):
                return " ".join(words)
        raise InvalidParameterValue(f"Expected a comparator such as = or LIKE {self._here()}")

    def take_value(self) -> Value:
        """The next value: a quoted text, a number, a bare word, or a list in parentheses."""
        if self.text[self.at : self.at + 1] == "(":
            return self._take_list()
        forms: tuple[tuple[ValueForm, re.Pattern[str]], ...] = (
            ("text", _TEXT),
            ("number", _NUMBER),
            ("word", _WORD),
        )
        for form, pattern in forms:
            if (text := self._take(pattern)) is not None:
                self._skip_space()
                return Value(form, text[1:-1] if form == "text" else text)
        raise InvalidParameterValue(f"Expected a number or a value between quotes {self._here()}")

    def take_words(self, *words: str) -> bool:
        """Whether exactly these words follow, in any case; they are read only if all do."""
        end = self.at
        for word in words:
            end = _after_space(self.text, end)
            found = _WORD.match(self.text, end)
            if found is None or found.group().upper() != word:
                return False
            end = found.end()
        self.at = _after_space(self.text, end)
        return True

    def expect_end(self) -> None:
        """Raises if anything is left."""
        if not self.ended:
            raise InvalidParameterValue(f"Nothing more was expected {self._here()}")

    def _take_list(self) -> Value:
        start = self.at
        self._take_mark("(")
        items: list[str] = []
        while not self._take_mark(")"):
            text = self._take(_TEXT)
            if text is None:
                raise InvalidParameterValue(
                    f"A list holds only values between quotes; {self._here()}"
                )
            items.append(text[1:-1])
            self._skip_space()
            if not self._take_mark(",") and self.text[self.at : self.at + 1] != ")":
                raise InvalidParameterValue(
                    f"Expected ',' or ')' in the list of values {self._here()}"
                )
        if not items:
            raise InvalidParameterValue("A list of values must not be empty")
        return Value("list", self.text[start : self.at].rstrip(), tuple(items))

    def _take_mark(self, mark: str) -> bool:
        if self.text[self.at : self.at + 1] != mark:
            return False
        self.at += 1
        self._skip_space()
        return True

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def _skip_space(self) -> None:
        self.at = _after_space(self.text, self.at)

    def _here(self) -> str:
        if self.ended:
            return "at the end"
        rest = self.text[self.at : self.at + 30]
        return f"at position {self.at}, but found '{rest}'"


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found is not None else at


def _field_of(pieces: list[str], written: str) -> Field:
    """The prefix and the key; a key is one quoted piece or words joined by dots, not a mixture."""
    first, *rest = pieces
    if not rest:
        return Field(None, unquoted(first), written)
    if len(rest) > 1 and any(piece[0] in "`\"'" for piece in rest):
        raise InvalidParameterValue(
            f"The key of '{written}' must be quoted as a whole, as in metrics.`my.own key`"
        )
    # Only backticks go around a prefix: "metrics".x names nothing in MLflow either.
    prefix = unquoted(first) if first.startswith("`") else first
    return Field(prefix, unquoted(rest[0]) if len(rest) == 1 else ".".join(rest), written)
