"""An invented patient's picture as a DICOM file: for trials of what hospitals have."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid


def dicom_bytes(image: NDArray[np.uint8], patient: str) -> bytes:
    """A file (PS3.10) with one ultrasound image, uint8 [H, W], of ``patient``."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.PatientID = "US", patient
    dataset.BurnedInAnnotation = "NO"
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    # All 256 values as they are (PS3.3, C.11.2.1.2): readers stretch what has no window.
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    pixels = image.tobytes()
    # PS3.5, 8.1.1: a value has an even length.
    dataset.PixelData = pixels + bytes(len(pixels) % 2)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
