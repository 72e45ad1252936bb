"""What a check returns: a verdict and a sentence. A FedHelpError that it raises is a failure."""

from __future__ import annotations

from dataclasses import dataclass

from fedhelp_client.preflight.report import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check's answer."""

    verdict: Verdict
    says: str


def passed(says: str) -> Outcome:
    """All is as it must be."""
    return Outcome("pass", says)


def warned(says: str) -> Outcome:
    """The node would run, and somebody should look."""
    return Outcome("warn", says)


def failed(says: str) -> Outcome:
    """The node would stop, or must not be started."""
    return Outcome("fail", says)
