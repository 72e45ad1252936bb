"""The life of a round, as one table and without any input or output.

::

    PENDING --begin--> OPEN --all-in-----------> CLOSED --answered--> OPENED
       |                |  `--deadline-cohort----^  |
       |                `-----deadline-short--.     `--refused--.
       `--earlier-failed, refused---------> FAILED <-----------'

Whatever is not in the table raises `UnknownTransition` and changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from fedhelp_secure.errors import InternalError


class RoundState(enum.Enum):
    """Where a round is; the values are those of the wire's ``RoundState``."""

    PENDING = 1
    OPEN = 2
    CLOSED = 3
    OPENED = 4
    FAILED = 5


class RoundEventKind(enum.Enum):
    """What can happen to a round."""

    BEGIN = "begin"
    """The charter was adopted, or the round before was opened; every custodian has begun it."""
    CONTRIBUTION = "contribution"
    """One more hospital's contribution was accepted."""
    ALL_IN = "all-in"
    """Every hospital of the charter has contributed."""
    DEADLINE_COHORT = "deadline-cohort"
    """The deadline has passed, and those who contributed are a cohort."""
    DEADLINE_SHORT = "deadline-short"
    """The deadline has passed without a cohort."""
    ANSWERED = "answered"
    """Every custodian's answer is checked and stored."""
    REFUSED = "refused"
    """The sum cannot be made, or a custodian definitely refused to begin or to open the round."""
    EARLIER_FAILED = "earlier-failed"
    """A round before this one failed: its model step is missing for good."""


class UnknownTransition(InternalError):
    """An event came for which the round's state has no place."""

    code = "round-transition"


TRANSITIONS: Mapping[tuple[RoundState, RoundEventKind], RoundState] = MappingProxyType(
    {
        (RoundState.PENDING, RoundEventKind.BEGIN): RoundState.OPEN,
        (RoundState.PENDING, RoundEventKind.EARLIER_FAILED): RoundState.FAILED,
        (RoundState.PENDING, RoundEventKind.REFUSED): RoundState.FAILED,
        (RoundState.OPEN, RoundEventKind.CONTRIBUTION): RoundState.OPEN,
        (RoundState.OPEN, RoundEventKind.ALL_IN): RoundState.CLOSED,
        (RoundState.OPEN, RoundEventKind.DEADLINE_COHORT): RoundState.CLOSED,
        (RoundState.OPEN, RoundEventKind.DEADLINE_SHORT): RoundState.FAILED,
        (RoundState.CLOSED, RoundEventKind.ANSWERED): RoundState.OPENED,
        (RoundState.CLOSED, RoundEventKind.REFUSED): RoundState.FAILED,
    }
)

FINAL = frozenset({RoundState.OPENED, RoundState.FAILED})
"""States that nothing leaves."""


def advance(state: RoundState, event: RoundEventKind) -> RoundState:
    """The state after ``event``; raises UnknownTransition if ``state`` does not know it."""
    try:
        return TRANSITIONS[state, event]
    except KeyError as error:
        raise UnknownTransition(
            f"a round that is {state.name} cannot take the event {event.value}; report this."
        ) from error
