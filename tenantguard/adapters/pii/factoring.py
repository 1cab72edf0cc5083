"""Long choices between words, as in the expressions of URLs, made quick without a change of what they match.

``regex`` tries the 700 top-level domains of Presidio's expressions one by one at every dot: 4 us. Brought together by
their first letters they take a quarter of one, and where not enough letters follow they are not tried at all.
"""

from __future__ import annotations

import re
from typing import Final

_WORDS_MIN: Final = 16
_CHOICE: Final = re.compile(rf"\(\?:(?:\(\?:[a-z]+\)\|){{{_WORDS_MIN - 1},}}\(\?:[a-z]+\)\)")


def factored(pattern: str) -> str:
    """An equal expression: choices of at least 16 groups that are lower-case words each are brought together.

    Words that begin with different letters exclude one another, so only the order of those that begin alike counts,
    and that stays: where a word ends, what stood before it is tried before, what stood behind it after.
    """
    return _CHOICE.sub(lambda found: _choice(re.findall(r"[a-z]+", found[0])), pattern)


def _choice(words: list[str]) -> str:
    return f"(?=[a-z]{{{min(map(len, words))}}}){_joined(words)}"


def _joined(words: list[str]) -> str:
    if "" in words:
        at = words.index("")
        before, after = words[:at], [word for word in words[at + 1 :] if word]
        return f"(?:{'|'.join([*_branches(before), '', *_branches(after)])})" if before or after else ""
    return f"(?:{'|'.join(_branches(words))})"


def _branches(words: list[str]) -> list[str]:
    rests: dict[str, list[str]] = {}
    for word in words:
        rests.setdefault(word[0], []).append(word[1:])
    return [first + (rest[0] if len(rest) == 1 else _joined(rest)) for first, rest in rests.items()]
