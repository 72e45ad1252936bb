"""Pictures in requests: grey PNGs of one size, and nothing else."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from fedhelp_server.foundation_model.pictures import PictureRefused, decode_pictures


def picture(mode: str = "L", size: tuple[int, int] = (20, 30), form: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format=form)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def test_grey_pictures_are_decoded() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 17, 23), dtype=np.uint8)
    texts = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG")
        texts.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    np.testing.assert_array_equal(decode_pictures(texts), images)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [17],
        [None],
        [["nested"]],
        ["not base64!"],
        [base64.b64encode(b"not a PNG").decode()],
        [picture()[:40]],
        [picture(mode="RGB")],
        [picture(mode="1")],
        [picture(form="BMP")],
        [picture(size=(5000, 1))],
        [picture(size=(20, 30)), picture(size=(30, 20))],
    ],
)
def test_anything_else_is_refused(texts: list[object]) -> None:
    with pytest.raises(PictureRefused):
        decode_pictures(texts)
