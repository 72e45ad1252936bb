"""What can become of the one call, as a table (no I/O).

::

    READY --intend--> OPEN --send--> SENT --receive--> OPEN --answer--> ANSWERED
                       ^              | ^
                       |              |-'  repeat (only where the provider guarantees idempotency)
                       |              |------refuse--> REFUSED
                       |              '------lose----> INDETERMINATE --abandon--> ABANDONED
                       '---------------find not called------'

The call is a sequence of batches. OPEN: nothing is on its way, so that the next batch may be sent
by whoever comes next, after a crash too. SENT: one batch may have been received. A batch that was
sent and has neither an answer nor an outcome (the process died) is lost. ANSWERED, REFUSED and
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
    OPEN = "open"
    SENT = "sent"
    ANSWERED = "answered"
    REFUSED = "refused"
    INDETERMINATE = "indeterminate"
    ABANDONED = "abandoned"


class CallEvent(enum.Enum):
    """What happens to it."""

    INTEND = "intend"
    """Somebody asked; it is durable who and when."""
    SEND = "send"
    """It is durable that a batch is about to be sent, on a connection that stands."""
    REPEAT = "repeat"
    """The same batch is about to be sent again; its provider guarantees that this is harmless."""
    RECEIVE = "receive"
    """A valid answer to the batch is stored."""
    ANSWER = "answer"
    """All batches have their answers."""
    REFUSE = "refuse"
    """An answer came and may not be used."""
    LOSE = "lose"
    """Something may have been received, and no answer came."""
    FIND_NOT_CALLED = "find-not-called"
    """The operator established that the batch never reached the foundation model."""
    ABANDON = "abandon"
    """The operator gave the call up."""


TRANSITIONS: Mapping[CallState, Mapping[CallEvent, CallState]] = MappingProxyType(
    {
        CallState.READY: {CallEvent.INTEND: CallState.OPEN},
        CallState.OPEN: {CallEvent.SEND: CallState.SENT, CallEvent.ANSWER: CallState.ANSWERED},
        CallState.SENT: {
            CallEvent.REPEAT: CallState.SENT,
            CallEvent.RECEIVE: CallState.OPEN,
            CallEvent.REFUSE: CallState.REFUSED,
            CallEvent.LOSE: CallState.INDETERMINATE,
        },
        CallState.INDETERMINATE: {
            CallEvent.FIND_NOT_CALLED: CallState.OPEN,
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
