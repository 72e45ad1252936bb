"""The OpenAI-compatible endpoint: what goes out, and what may come back."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from support.broker import COUNT, MODEL, BrokerWorld, embeddings_of_server, pictures_in

from fedhelp_server.broker.pictures import png
from fedhelp_server.broker.provider import AnswerRefused
from fedhelp_server.broker.providers.openai_embeddings import OpenAiEmbeddings

ROWS = [
    {"object": "embedding", "index": index, "embedding": row}
    for index, row in enumerate(embeddings_of_server().tolist())
]


@pytest.fixture
def provider(world: BrokerWorld) -> OpenAiEmbeddings:
    charter = world.variant(provider="openai-embeddings").federation.charter
    return OpenAiEmbeddings(charter, world.rules())


def answer(**changes: Any) -> bytes:  # noqa: ANN401
    return json.dumps({"object": "list", "model": MODEL, "data": ROWS} | changes).encode()


def test_a_request_holds_data_urls_of_the_pixels(
    world: BrokerWorld, provider: OpenAiEmbeddings
) -> None:
    body = provider.request(world.public_set.images)
    document = json.loads(body)
    assert set(document) == {"model", "input", "encoding_format"}
    assert document["model"] == MODEL
    assert all(url.startswith("data:image/png;base64,") for url in document["input"])
    assert pictures_in(body) == [png(image) for image in world.public_set.images]


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (None, None),
        ({"prompt_tokens": 5, "total_tokens": 5}, None),
        ({"cost": 0.00025}, Decimal("0.00025")),
        ({"cost": 1e-12}, Decimal(0)),
        ({"cost": 0.1 + 0.2}, Decimal("0.3")),
    ],
)
def test_a_valid_answer_is_read_in_the_order_of_its_indices(
    provider: OpenAiEmbeddings, usage: object, cost: Decimal | None
) -> None:
    parsed = provider.parse(answer(data=ROWS[::-1], usage=usage), count=COUNT)
    np.testing.assert_array_equal(parsed.embeddings, embeddings_of_server())
    assert parsed.cost == cost


def _row(**changes: object) -> list[dict[str, Any]]:
    return [*ROWS[:2], ROWS[2] | changes, *ROWS[3:]]


VALUES: list[Any] = ROWS[2]["embedding"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "answer-form"),
        (b"{}", "answer-form"),
        (b"[" * 100_000, "answer-form"),
        (answer(data="AAAA"), "answer-form"),
        (answer(model=5), "answer-form"),
        (answer(model="other"), "answer-model"),
        (answer(data=[]), "answer-shape"),
        (answer(data=ROWS[:-1]), "answer-shape"),
        (answer(data=[*ROWS, ROWS[0]]), "answer-shape"),
        (answer(data=_row(index=1)), "answer-shape"),
        (answer(data=_row(index=99)), "answer-shape"),
        (answer(data=_row(index=-1)), "answer-shape"),
        (answer(data=_row(index=2.5)), "answer-form"),
        (answer(data=_row(embedding=VALUES[:-1])), "answer-shape"),
        (answer(data=_row(embedding=VALUES * 2)), "answer-form"),
        (answer(data=_row(embedding=[*VALUES[:-1], float("nan")])), "answer-form"),
        (answer(data=_row(embedding=[*VALUES[:-1], float("inf")])), "answer-form"),
        (answer(data=_row(embedding=[*VALUES[:-1], 1e39])), "answer-values"),
        (answer(data=_row(embedding=[*VALUES[:-1], "1"])), "answer-form"),
        (answer(data=_row(embedding=[0.0] * 768)), "answer-values"),
        (answer(data=_row(embedding=base64.b64encode(b"\0" * 3072).decode())), "answer-form"),
        (answer(usage={"cost": -1.0}), "answer-form"),
        (answer(usage={"cost": 1e7}), "answer-form"),
        (answer(usage={"cost": float("inf")}), "answer-form"),
        (answer(usage={"cost": "1"}), "answer-form"),
    ],
)
def test_other_answers_are_refused(provider: OpenAiEmbeddings, message: bytes, reason: str) -> None:
    with pytest.raises(AnswerRefused) as caught:
        provider.parse(message, count=COUNT)
    assert caught.value.reason == reason
