"""The residual risks of the software, as threat_model.md section 5 states them.

``residual_risks.md`` is that section's list, word for word, as the threat model is not part of an
installation; a test keeps the two in step. No bundle shows these risks.
"""

from __future__ import annotations

import re
from importlib.resources import files

_ITEM = re.compile(r"^\d+\. ", re.MULTILINE)
_MARKS = re.compile(r"[`*]")


def residual_risks() -> tuple[str, ...]:
    """One text for each numbered limit, without marks of emphasis."""
    listed = files("fedhelp_secure.report").joinpath("residual_risks.md").read_text("utf-8")
    return tuple(_MARKS.sub("", " ".join(item.split())) for item in _ITEM.split(listed)[1:])
