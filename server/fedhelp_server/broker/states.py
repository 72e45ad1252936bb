"""What can become of the one call, as a table (no I/O).

::

    READY --intend--> CALLING --answer--> ANSWERED
      ^                  |------refuse--> REFUSED
      |<---withdraw------|
      |                  '------lose----> INDETERMINATE --abandon--> ABANDONED
      '----------------find not called----------'

An intent that was found without an outcome (the process died) is lost too. ANSWERED, REFUSED and
ABANDONED are final: the foundation model is not called again for the same charter, purpose and
proxy set.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from fedhelp_secure.errors import InternalError


class CallState(enum.Enum):
    """Where the call stands."""

    READY = "ready"
    CALLING = "calling"
    ANSWERED = "answered"
    REFUSED = "refused"
    INDETERMINATE = "indeterminate"
    ABANDONED = "abandoned"


class CallEvent(enum.Enum):
    """What happens to it."""

    INTEND = "intend"
    """The intent is durable; nothing was sent before."""
    WITHDRAW = "withdraw"
    """No connection came about: certainly nothing was sent."""
    ANSWER = "answer"
    """A valid answer is stored."""
    REFUSE = "refuse"
    """An answer came and may not be used."""
    LOSE = "lose"
    """Something may have been sent, and no answer came."""
    FIND_NOT_CALLED = "find-not-called"
    """The operator established that the call never reached the foundation model."""
    ABANDON = "abandon"
    """The operator gave the call up."""


TRANSITIONS: Mapping[CallState, Mapping[CallEvent, CallState]] = MappingProxyType(
    {
        CallState.READY: {CallEvent.INTEND: CallState.CALLING},
        CallState.CALLING: {
            CallEvent.WITHDRAW: CallState.READY,
            CallEvent.ANSWER: CallState.ANSWERED,
            CallEvent.REFUSE: CallState.REFUSED,
            CallEvent.LOSE: CallState.INDETERMINATE,
        },
        CallState.INDETERMINATE: {
            CallEvent.FIND_NOT_CALLED: CallState.READY,
            CallEvent.ABANDON: CallState.ABANDONED,
        },
        CallState.ANSWERED: {},
        CallState.REFUSED: {},
        CallState.ABANDONED: {},
    }
)

FINAL = frozenset(state for state, exits in TRANSITIONS.items() if not exits)


class ForbiddenTransition(InternalError):
    """An event came in a state that does not know it; nothing was changed."""

    code = "call-transition"


def next_state(state: CallState, event: CallEvent) -> CallState:
    """The state after ``event``; raises ForbiddenTransition if ``state`` does not know it."""
    try:
        return TRANSITIONS[state][event]
    except KeyError as error:
        raise ForbiddenTransition(
            f"'{event.value}' cannot happen to a call that is {state.value}."
        ) from error
