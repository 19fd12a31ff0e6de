"""XML of audit messages: text from outside can neither end an element nor a line, nor turn the order of reading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

VALUE_LENGTH_MAX = 300
"""Characters of one value; longer ones are cut, and end with an ellipsis."""

_UNWANTED = re.compile(
    "[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # forbidden by XML 1.0, and line ends
    "|[\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"  # more line ends, directions
)
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"})


class Encoded(str):
    """A value in Base64: it needs no cleaning and must not be cut."""

    __slots__ = ()


def element(
    name: str, attributes: Mapping[str, str | None], children: Iterable[str] = (), *, text: str | None = None
) -> str:
    """Return an element; attributes that are None are left out.

    Args:
        name: Ours, never from outside.
        children: Elements made here.
        text: Instead of children.
    """
    words = "".join(f' {one}="{escaped(value)}"' for one, value in attributes.items() if value is not None)
    inside = "".join(children) if text is None else escaped(text)
    return f"<{name}{words}>{inside}</{name}>" if inside else f"<{name}{words}/>"


def escaped(value: str) -> str:
    """Return a value as it may stand in an attribute or element; what may not is replaced by U+FFFD."""
    return value if isinstance(value, Encoded) else clean(value).translate(_ESCAPES)


def clean(value: str) -> str:
    """Return a value on one line, within the length, every unwanted character replaced by U+FFFD."""
    if len(value) > VALUE_LENGTH_MAX:
        value = value[: VALUE_LENGTH_MAX - 1] + "…"
    return _UNWANTED.sub("\ufffd", value)
