"""Ceilings on images, bytes and cost: kept before the first byte, and between batches."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from support.broker import BrokerWorld, Exchange, rows_asked_for

from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.foundation_model import open_answer
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_server.broker.ceiling import Ceiling, CeilingReached
from fedhelp_server.broker.process import parse_amount
from fedhelp_server.broker.states import CallState

WHO = Identity("testfed", Role.HOSPITAL, "small-1")


@pytest.mark.parametrize(
    ("ceiling", "match"),
    [
        (Ceiling(images=5), "6 images"),
        (Ceiling(request_bytes=1000), "bytes, over"),
        (Ceiling(cost=Decimal("0.05"), price_per_image=Decimal("0.01")), r"0\.06"),
        (Ceiling(cost=Decimal("100")), "--price-per-image"),
    ],
)
def test_a_call_over_a_ceiling_is_refused_at_the_start(
    world: BrokerWorld, tmp_path: Path, ceiling: Ceiling, match: str
) -> None:
    with pytest.raises(CeilingReached, match=match):
        world.one_call(tmp_path, ceiling=ceiling)
    assert world.server.connections == []
    assert world.journal(tmp_path).state is CallState.READY


def test_a_call_at_the_ceiling_is_made(world: BrokerWorld, tmp_path: Path) -> None:
    exact = Ceiling(
        images=6, request_bytes=10**6, cost=Decimal("0.06"), price_per_image=Decimal("0.01")
    )
    world.one_call(tmp_path, ceiling=exact).answer(WHO)


def charging(exchange: Exchange) -> None:
    """Two units a request, as some gateways report it."""
    rows = rows_asked_for(exchange.body).tolist()
    document = {
        "model": "dinov2-small",
        "data": [{"index": index, "embedding": row} for index, row in enumerate(rows)],
        "usage": {"cost": 2.0},
    }
    exchange.reply(json.dumps(document).encode())


def test_a_provider_that_charges_more_is_stopped_between_batches(
    world: BrokerWorld, tmp_path: Path
) -> None:
    divided = world.variant(batch_images=2, provider="openai-embeddings")
    world.server.act = charging
    low = Ceiling(cost=Decimal(5), price_per_image=Decimal("0.1"))
    call = divided.one_call(tmp_path, ceiling=low)
    for _ in range(2):
        with pytest.raises(CeilingReached, match="next batch"):
            call.answer(WHO)
    assert len(world.server.requests) == 2
    assert divided.journal(tmp_path).state is CallState.OPEN
    high = Ceiling(cost=Decimal(6), price_per_image=Decimal("0.1"))
    stored = divided.one_call(tmp_path, ceiling=high).answer(WHO)
    assert len(world.server.requests) == 3
    _, record = open_answer(divided.federation.charter, record=stored.record, body=stored.body)
    assert record.cost is not None
    assert Decimal(record.cost) == 6


@pytest.mark.parametrize("text", ["", "1e9", "-1", "nan", "1,5", "1." + "0" * 10])
def test_an_amount_is_a_decimal(text: str) -> None:
    assert parse_amount("2.50", "--maximum-cost") == Decimal("2.5")
    assert parse_amount(None, "--maximum-cost") is None
    with pytest.raises(ConfigurationError, match="--maximum-cost takes a decimal"):
        parse_amount(text, "--maximum-cost")
