"""From a hospital's state to files that run elsewhere in the hospital."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from fedhelp_client.data.embeddings import embed
from fedhelp_client.data.types import DataError
from fedhelp_client.export.card import ModelCard, markdown, sign_card
from fedhelp_client.export.check import agreement, check_same, probabilities
from fedhelp_client.export.graph import student_graph
from fedhelp_client.export.record import ModelRecord
from fedhelp_client.head import KeptClassifier
from fedhelp_client.models import HospitalModel, build_network
from fedhelp_client.node.kept import load_kept
from fedhelp_client.teacher import refine_masks
from fedhelp_client.token_head import KeptSegmenter
from fedhelp_secure.backbone import load_backbone
from fedhelp_secure.canonical import digest
from fedhelp_secure.public_set import PublicSet
from fedhelp_secure.state import StateDirectory, write_atomically

MODEL, CARD, CARD_TEXT = "model.onnx", "model-card.json", "model-card.md"

_INPUT = "image: uint8 [N, 1, height, width], grey, 0 is black; any size from 16 to 4096 pixels"
_OUTPUT = {
    "classification": "probabilities: float32 [N, classes], in the order below",
    "segmentation": "lesion: float32 [N, 1, height, width]; above 0.5 is the lesion",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    card: ModelCard
    folder: Path


def export_student(
    state: StateDirectory, public_set: PublicSet, out: Path, *, int8: bool = False
) -> Exported:
    """Write the learnt network of ``state`` as ONNX into ``out``, with a signed card.

    The graph is compared with the network on the public images, which also calibrate ``int8``; no
    patient is read. Raises DataError if nothing was learnt or ``out`` holds a model, ExportDiffers.
    """
    record = _record(state, out)
    model = load_network(state, record, "distilled")
    exact = student_graph(model, task=record.task)
    check_same(exact, public_set.images, probabilities(model, public_set.images, task=record.task))
    graph, agreed = exact, 1.0
    number_format: Literal["float32", "int8"] = "float32"
    if int8:
        # Not above: it takes a second to import.
        from fedhelp_client.export.quantise import quantised

        graph, number_format = quantised(exact, public_set.images), "int8"
        agreed = agreement(exact, graph, public_set.images, task=record.task)
    data = graph.SerializeToString()
    return _written(
        state, out, data, record, network="own", number_format=number_format, agreed=agreed
    )


def export_kept(state: StateDirectory, public_set: PublicSet, out: Path) -> Exported:
    """Write what ``state`` keeps beside its network, backbone included, as ONNX, with its card.

    The graph is compared with it on the public images. Raises DataError if nothing was kept or
    ``out`` holds a model, BackboneUnavailable or ExportDiffers.
    """
    record = _record(state, out)
    if record.head is None:
        raise DataError(
            f"{state.root} holds no kept classifier or segmenter; export the network instead, "
            "without --kept."
        )
    graph, expected = _kept_graph(load_kept(state, record.task), public_set.images)
    check_same(graph, public_set.images, expected)
    return _written(
        state, out, graph.SerializeToString(), record, network="kept", number_format="float32"
    )


def _kept_graph(
    kept: KeptClassifier | KeptSegmenter, images: NDArray[np.uint8]
) -> tuple[ModelProto, NDArray[np.floating]]:
    """The graph of ``kept``, and what it has to say of ``images`` [N, 224, 224]."""
    # Not above: what they need takes a second to import.
    from fedhelp_client.export.kept import kept_graph
    from fedhelp_client.export.kept_segmenter import segmenter_graph

    backbone = load_backbone()
    if isinstance(kept, KeptClassifier):
        return kept_graph(kept), kept.soft_labels(backbone.summaries(images))
    labels = kept.soft_labels(embed(backbone, images, "segmentation"))
    return segmenter_graph(kept), refine_masks(images, labels)[:, np.newaxis, :, :, 1]


def _record(state: StateDirectory, out: Path) -> ModelRecord:
    record = ModelRecord.load(state)
    if (out / MODEL).exists():
        raise DataError(f"{out} holds a model already; choose another --out.")
    return record


def _written(
    state: StateDirectory,
    out: Path,
    data: bytes,
    record: ModelRecord,
    *,
    network: Literal["own", "kept"],
    number_format: Literal["float32", "int8"],
    agreed: float = 1.0,
) -> Exported:
    card = ModelCard(
        model_digest=digest(data),
        model_bytes=len(data),
        network=network,
        number_format=number_format,
        agreement=agreed,
        input=_INPUT,
        output=_OUTPUT[record.task],
        record=record,
    )
    write_atomically(out / CARD_TEXT, markdown(card).encode("utf-8"))
    write_atomically(out / CARD, sign_card(card, state.signing_key()))
    # Last: a folder with a model is a complete one.
    write_atomically(out / MODEL, data)
    return Exported(card, out)


def load_network(
    state: StateDirectory, record: ModelRecord, name: Literal["alone", "distilled"]
) -> HospitalModel:
    """The network of ``state`` as it was after training alone, or after distillation.

    Raises DataError if its file is missing or another's.
    """
    path = state.role_directory() / "models" / f"{name}.pt"
    model = build_network(record.network(), task=record.task, classes=len(record.classes), seed=0)
    try:
        # weights_only: the file is data, whoever wrote it.
        weights = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        model.load_state_dict(weights)
    except (OSError, RuntimeError, UnpicklingError, ValueError, EOFError, KeyError) as error:
        raise DataError(
            f"{path} is not the network that this hospital learnt; run 'fedhelp client run' again."
        ) from error
    model.eval()
    return model
