"""The two messages: what goes out, and what may come back."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from support.broker import COUNT, MODEL, embeddings_of_server, inference_response, make_public_set

from fedhelp_server.broker.provider import AnswerRefused
from fedhelp_server.broker.providers.open_inference_http import build_request, parse_response

FLAT = embeddings_of_server().ravel().tolist()


def test_a_request_holds_the_pixels_and_nothing_else() -> None:
    images = make_public_set().images
    document = json.loads(build_request(images))
    assert set(document) == {"inputs", "outputs"}
    [tensor] = document["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("images", "BYTES", [COUNT])
    for text, image in zip(tensor["data"], images, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert picture.format == "PNG"
            assert picture.info == {}
            np.testing.assert_array_equal(np.asarray(picture), image)


def test_a_valid_answer_is_read() -> None:
    answer = parse_response(inference_response(), model=MODEL, count=COUNT)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, embeddings_of_server())


def _replaced(index: int, value: object) -> list[object]:
    return [*FLAT[:index], value, *FLAT[index + 1 :]]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "answer-form"),
        (b"\xff\xfe", "answer-form"),
        (b"[]", "answer-form"),
        (b"[" * 100_000, "answer-form"),
        (b'{"model_name": "dinov2-small", "outputs": []}', "answer-form"),
        (b'{"error": "no"}', "answer-form"),
        (inference_response(datatype="FP64"), "answer-form"),
        (inference_response(name="labels"), "answer-form"),
        (inference_response(shape=[COUNT * 768]), "answer-form"),
        (inference_response(data="AAAA"), "answer-form"),
        (inference_response(data=_replaced(5, "1.0")), "answer-form"),
        (inference_response(data=_replaced(5, None)), "answer-form"),
        (inference_response(data=_replaced(5, True)), "answer-form"),
        (inference_response(data=_replaced(5, [1.0])), "answer-form"),
        (inference_response(data=_replaced(5, float("nan"))), "answer-form"),
        (inference_response(data=_replaced(5, float("inf"))), "answer-form"),
        (inference_response(data=_replaced(5, 1e39)), "answer-values"),
        (inference_response(data=[0.0] * 768 + FLAT[768:]), "answer-values"),
        (inference_response(shape=[COUNT, 384]), "answer-shape"),
        (inference_response(shape=[COUNT + 1, 768]), "answer-shape"),
        (inference_response(shape=[-COUNT, -768]), "answer-shape"),
        (inference_response(data=FLAT[:-1]), "answer-shape"),
        (inference_response(data=[*FLAT, 1.0]), "answer-shape"),
        (inference_response().replace(b"dinov2-small", b"other-model"), "answer-model"),
    ],
)
def test_other_answers_are_refused(message: bytes, reason: str) -> None:
    with pytest.raises(AnswerRefused) as caught:
        parse_response(message, model=MODEL, count=COUNT)
    assert caught.value.reason == reason
