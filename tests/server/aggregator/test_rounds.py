from __future__ import annotations

import itertools

import pytest

from fedhelp_secure.wire.v1 import coordinator_pb2 as wire
from fedhelp_server.aggregator.rounds import (
    FINAL,
    TRANSITIONS,
    RoundEventKind,
    RoundState,
    UnknownTransition,
    advance,
)

KNOWN = {
    ("PENDING", "begin"): "OPEN",
    ("PENDING", "earlier-failed"): "FAILED",
    ("PENDING", "refused"): "FAILED",
    ("OPEN", "contribution"): "OPEN",
    ("OPEN", "all-in"): "CLOSED",
    ("OPEN", "deadline-cohort"): "CLOSED",
    ("OPEN", "deadline-short"): "FAILED",
    ("CLOSED", "answered"): "OPENED",
    ("CLOSED", "refused"): "FAILED",
}


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(RoundState, RoundEventKind)), ids=str
)
def test_the_table_and_nothing_else(state: RoundState, event: RoundEventKind) -> None:
    expected = KNOWN.get((state.name, event.value))
    if expected is None:
        with pytest.raises(UnknownTransition, match=event.value):
            advance(state, event)
    else:
        assert advance(state, event) is RoundState[expected]


def test_nothing_leaves_a_final_state() -> None:
    assert not [state for state, _ in TRANSITIONS if state in FINAL]


def test_states_are_those_of_the_wire() -> None:
    for state in RoundState:
        assert wire.RoundState.Name(wire.RoundState.ValueType(state.value)) == (
            f"ROUND_STATE_{state.name}"
        )
