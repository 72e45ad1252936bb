"""The model card (Mitchell et al. 2019): what a file was learnt from, and what it may be used for.

It is JSON in a DSSE envelope signed by the hospital, and the same as Markdown for people. The
envelope names the file by digest: a card of another file does not verify.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhelp_client.data.types import DataError
from fedhelp_client.export.record import ModelRecord
from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.errors import MalformedMessage
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document

KIND = "model-card"

WARNING = (
    "This model was trained on this hospital's own patients WITHOUT noise, and then taught by "
    "the federation. What it says can tell something of those patients: it is for use within this "
    "hospital, and giving the file away is a disclosure of patient data."
)
INTENDED_USE = (
    "Research and quality improvement within the hospital named below. It is no medical device, "
    "and no diagnosis may rest on it."
)


class ModelCard(BaseModel):
    """What is signed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    model_digest: str
    """SHA-256 of the ONNX file."""
    model_bytes: int
    network: Literal["own", "kept"] = "own"
    """The hospital's own network, or the classifier that it kept on the public backbone."""
    number_format: Literal["float32", "int8"]
    agreement: float
    """With the float32 graph, on the public proxies; 1 for it itself."""
    input: str
    output: str
    record: ModelRecord
    intended_use: str = INTENDED_USE
    warning: str = WARNING

    @property
    def measured(self) -> tuple[float, float]:
        """The record's metric of what this file holds: after the federation, and before."""
        record = self.record
        if self.network == "own":
            return record.distilled, record.alone
        if record.head is None or record.head_alone is None:
            raise DataError(
                "this hospital kept nothing beside its network; the card is of nothing."
            )
        return record.head, record.head_alone


def sign_card(card: ModelCard, key: SigningKey) -> bytes:
    """The envelope of ``card``."""
    return key.sign_document(KIND, card.model_dump(mode="json"))


def open_card(envelope: bytes, key: VerifyingKey, model: bytes) -> ModelCard:
    """The card in ``envelope``, checked to be ``key``'s and about the file ``model``.

    Raises SignatureRefused, MalformedMessage, or DataError for another file's card.
    """
    document = open_document(KIND, envelope, key)
    try:
        card = ModelCard.model_validate_json(canonical_json(document))
    except ValidationError as error:
        raise MalformedMessage("a model card does not have the form of this version.") from error
    if card.model_digest != digest(model):
        raise DataError("the card is another file's; use the card that came with the model.")
    return card


def markdown(card: ModelCard) -> str:
    """``card`` for people."""
    record = card.record
    after, before = card.measured
    measured = f"{after:.3f} on {record.test_images} public test images"
    rows = {
        "file": f"{card.model_bytes:,} bytes, {card.number_format}, {card.model_digest}",
        "network": _network(card),
        "input": card.input,
        "output": card.output,
        "classes": ", ".join(record.classes),
        "learnt": f"{record.learnt}, hospital {record.hospital} ({record.group})",
        "taught by": f"charter {record.charter} of {record.federation}, {record.charter_digest}",
        record.metric: f"{measured}; {before:.3f} before the federation",
        "mechanism": f"{record.mechanism}; unit: patient, add or remove one; delta {record.delta}",
        "epsilon (aggregate)": f"{record.epsilon_aggregate}: of what this hospital released",
        "epsilon (collusion)": f"{record.epsilon_collusion}: if all custodians colluded",
        "agreement": f"{card.agreement:.3f} of the public images are judged as in float32",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {record.task} model of {record.hospital}

**{card.warning}**

| | |
|---|---|
{table}

**Intended use.** {card.intended_use}

**Limits.** Learnt from few patients at few hospitals. Measured on the public test set that its
operator named, which need not be like other patients. Confidence is not calibrated.
"""


def _network(card: ModelCard) -> str:
    network = card.record.network()
    if card.network == "own":
        return f"{network.network}, {network.side} pixels a side"
    return "public backbone (DINOv2 ViT-S/14), public model, and a head of this hospital's own"
