"""The form of the mappings: which part of a bundle is evidence for which provision.

The tables themselves are in `mapping_hipaa`, `mapping_gdpr`, `mapping_ai_act`,
`mapping_privacy` and `mapping_iso`. A row says what the
bundle holds (and cites it) and what it does not show, which the organisation must show otherwise. A
mapping is a finding aid: it is no judgement that a provision is met.

Subjects are short names and paraphrases, never the text of a provision. Each table's docstring and
`Framework.checked` say which text it was compared with; what had none is to be compared by the
reader.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_secure.report.facts import Topic


@dataclass(frozen=True, slots=True)
class Provision:
    """One provision, and the evidence that bears on it."""

    number: str
    subject: str
    shown: str
    """What every verified bundle that has the ``topics`` holds; empty if it holds nothing."""
    topics: tuple[Topic, ...]
    """All must be in the bundle, or the row says that it holds nothing on this."""
    left: str
    """What the bundle does not show."""


@dataclass(frozen=True, slots=True)
class Framework:
    """One law, guideline or standard."""

    name: str
    """For links."""
    title: str
    note: str
    """What the numbers and words of the rows mean."""
    source: str
    """Title, version, date and address of the provisions."""
    checked: str
    """With which text the rows were compared, or that the reader must."""
    provisions: tuple[Provision, ...]
