"""The table: complete, and never two calls without the operator between them."""

from __future__ import annotations

import itertools

import pytest

from fedhelp_server.broker.states import (
    FINAL,
    TRANSITIONS,
    CallEvent,
    CallState,
    ForbiddenTransition,
    next_state,
)


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(CallState)
    assert frozenset({CallState.ANSWERED, CallState.REFUSED, CallState.ABANDONED}) == FINAL


@pytest.mark.parametrize(("state", "event"), list(itertools.product(CallState, CallEvent)))
def test_an_event_that_a_state_does_not_know_is_refused(state: CallState, event: CallEvent) -> None:
    if event in TRANSITIONS[state]:
        assert next_state(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(ForbiddenTransition, match=state.value):
            next_state(state, event)


def test_a_second_sending_needs_an_answer_or_the_operator() -> None:
    """Over all paths of 9 events: between two sendings, the first was answered or found not to
    have left. Only REPEAT is without; that is for providers that guarantee idempotency."""
    excused = {CallEvent.RECEIVE, CallEvent.FIND_NOT_CALLED}
    paths: list[tuple[CallState, tuple[CallEvent, ...]]] = [(CallState.READY, ())]
    for _ in range(9):
        paths = [
            (after, (*path, event))
            for state, path in paths
            for event, after in TRANSITIONS[state].items()
        ]
        for _, path in paths:
            sendings = [index for index, event in enumerate(path) if event is CallEvent.SEND]
            for first, second in itertools.pairwise(sendings):
                assert excused & set(path[first:second])
    assert paths
