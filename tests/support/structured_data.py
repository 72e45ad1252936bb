"""RFC 5424 messages read back, by its grammar and nothing of the product's."""

from __future__ import annotations

import re

_HEADER = re.compile(
    r"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([!-~]{1,255}) ([!-~]{1,48}) "
    r"([!-~]{1,128}) ([!-~]{1,32}) "
)
_NAME = r"[!#-<>-\\^-~]{1,32}"
_PARAMETER = re.compile(rf' ({_NAME})="((?:[^"\\\]]|\\["\\\]])*)"')
_ELEMENT = re.compile(rf"\[({_NAME})((?:{_PARAMETER.pattern})*)\]")


def read(text: str) -> tuple[tuple[str, ...], str, dict[str, str], str]:
    """Header fields, the element's name, its parameters, the message; one element exactly."""
    head = _HEADER.match(text)
    assert head is not None
    found = _ELEMENT.match(text, head.end())
    assert found is not None
    rest = text[found.end() :]
    assert rest.startswith(" ")
    return head.groups(), found[1], parameters(found[2]), rest[1:]


def parameters(text: str) -> dict[str, str]:
    """The parameters of one element, unescaped; no name may come twice."""
    pairs = _PARAMETER.findall(text)
    assert len(dict(pairs)) == len(pairs)
    return {name: re.sub(r'\\(["\\\]])', r"\1", value) for name, value in pairs}
