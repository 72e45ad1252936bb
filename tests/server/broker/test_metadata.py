"""What rides along in image files (EXIF, PNG texts, DICOM headers) never leaves the broker."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from support.broker import (
    BrokerWorld,
    Exchange,
    RecordingServer,
    inference_response,
    make_public_set,
    make_world,
    pictures_in,
)

from fedhelp_client.data.images import read_grey
from fedhelp_secure.charter import ProviderName
from fedhelp_secure.transport.identity import Identity, Role
from fedhelp_secure.wire.v1.open_inference_pb2 import ModelInferRequest
from fedhelp_server.broker.call import CallSpent, ProxySetRefused
from fedhelp_server.broker.pictures import png

WHO = Identity("testfed", Role.HOSPITAL, "small-1")
PATIENT = "Erika Mustermann 1964-08-12"
PIXELS: NDArray[np.uint8] = make_public_set().images


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("PatientName", PATIENT)
    texts.add_text("Compressed", PATIENT, zip=True)
    texts.add_itxt("International", PATIENT)
    exif = Image.Exif()
    exif[0x010E] = PATIENT
    Image.fromarray(pixels).save(path, pnginfo=texts, exif=exif.tobytes())


def write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x010E] = PATIENT
    Image.fromarray(pixels).save(path, exif=exif.tobytes(), comment=PATIENT.encode())


def write_dicom(path: Path, pixels: NDArray[np.uint8]) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=PATIENT.encode().ljust(128))
    dataset.PatientName = PATIENT
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def source_images(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    """The pixels of files that carry a patient's name, read as a maker of public sets reads."""
    root = tmp_path_factory.mktemp("sources")
    write_png(root / "a.png", PIXELS[0])
    write_jpeg(root / "b.jpg", PIXELS[1])
    write_dicom(root / "c.dcm", PIXELS[2])
    write_png(root / "d.png", PIXELS[3])
    for path in root.iterdir():
        assert PATIENT.encode() in path.read_bytes()
    images = [read_grey(root / name, name) for name in ("a.png", "b.jpg", "d.png")]
    images.append(pydicom.dcmread(root / "c.dcm").pixel_array)
    return np.stack(images)


def chunks(data: bytes) -> list[bytes]:
    """Types of a PNG's chunks, in order."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, offset = [], 8
    while offset < len(data):
        (length,) = struct.unpack(">I", data[offset : offset + 4])
        found.append(data[offset + 4 : offset + 8])
        offset += 12 + length
    return found


def check_clean(data: bytes, pixels: NDArray[np.uint8]) -> None:
    assert set(chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize("provider", ["open-inference-http", "openai-embeddings"])
def test_a_recording_server_sees_pixels_and_nothing_else(
    tmp_path: Path, source_images: NDArray[np.uint8], provider: ProviderName
) -> None:
    with RecordingServer(tmp_path / "server") as server:
        public_set = make_public_set(source_images)
        world = make_world(tmp_path, server, public_set=public_set, provider=provider)
        server.act = refuse
        with pytest.raises(CallSpent):
            world.one_call(tmp_path).answer(WHO)
        [request] = server.requests
    sent = request.body + repr(request.headers).encode() + request.path.encode()
    for word in PATIENT.split():
        assert word.encode() not in sent
    for data, pixels in zip(pictures_in(request.body), source_images, strict=True):
        check_clean(data, pixels)


def refuse(exchange: Exchange) -> None:
    exchange.reply(inference_response(), status=500)


def test_over_grpc_too(world: BrokerWorld, source_images: NDArray[np.uint8]) -> None:
    body = world.variant(provider="open-inference-grpc").provider().request(source_images)
    [tensor] = ModelInferRequest.FromString(body).inputs
    for data, pixels in zip(tensor.contents.bytes_contents, source_images, strict=True):
        check_clean(data, pixels)
    assert PATIENT.encode() not in body


def test_an_array_has_no_room_for_anything_else() -> None:
    """Not even what Pillow would write for an image that it has read from a file."""
    check_clean(png(np.asfortranarray(PIXELS[0])), PIXELS[0])
    assert png(PIXELS[0]) == png(PIXELS[0].copy())


def test_a_private_image_in_the_set_is_refused(
    tmp_path: Path, world: BrokerWorld, source_images: NDArray[np.uint8]
) -> None:
    with_private = world.public_set.images.copy()
    with_private[-1] = source_images[1]
    with pytest.raises(ProxySetRefused, match="not the charter's"):
        world.one_call(tmp_path, images=with_private)
    more = np.concatenate([world.public_set.images, source_images[1:2]])
    with pytest.raises(ProxySetRefused, match="not the charter's"):
        world.one_call(tmp_path, images=more)
    assert world.server.connections == []
