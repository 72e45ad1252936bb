"""Nothing made for one purpose may serve another."""

from __future__ import annotations

import re
from pathlib import Path

import fedhelp_secure
from fedhelp_secure.secure_sum import domains

PACKAGE = Path(fedhelp_secure.__file__).parent
VALUES = {name: value for name, value in vars(domains).items() if name.isupper()}


def _source(*, without: str) -> str:
    return "\n".join(
        path.read_text() for path in sorted(PACKAGE.rglob("*.py")) if path.name != without
    )


def test_all_domains_differ_and_none_begins_another() -> None:
    values = list(VALUES.values())
    assert len(values) == 7
    assert len(set(values)) == len(values)
    for value in values:
        assert re.fullmatch(r"fedhelp-secure/v1/[a-z]+(-[a-z]+)*", value)


def test_each_is_used_in_exactly_one_place() -> None:
    source = _source(without="domains.py")
    for name in VALUES:
        assert len(re.findall(rf"\bdomains\.{name}\b", source)) == 1, name


def test_no_other_literal_of_the_package_is_one_of_them() -> None:
    others = re.findall(r"fedhelp-secure/v1/[a-z-]+", _source(without="domains.py"))
    assert len(set(others)) == len(others)
    assert not set(others) & set(VALUES.values())
    secure_sum = PACKAGE / "secure_sum"
    for path in secure_sum.glob("*.py"):
        assert ("fedhelp-secure/v1/" in path.read_text()) == (path.name == "domains.py")
