"""The facts of a report, and the JSON that carries them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NodeResult(_Fact):
    """What a node tells its operator at the end, as ``result.json``; it is sent to nobody.

    A hospital may hand it to the auditor, whose report then has its figures.
    """

    hospital: str
    group: Literal["large", "small"]
    task: Literal["classification", "segmentation"]
    metric: Literal["accuracy", "dice"]
    alone: float = Field(ge=0, le=1)
    """The own network, trained on own patients."""
    distilled: float = Field(ge=0, le=1)
    """The same network after the teacher."""
    head_alone: float | None = Field(ge=0, le=1)
    """A linear head on the public backbone, trained on own patients."""
    head: float | None = Field(ge=0, le=1)
    """What the hospital keeps too: the public model and such a head together."""
    epsilon_aggregate: float
    epsilon_collusion: float


class HospitalResult(_Fact):
    """One hospital before and after, and what it cost its patients."""

    name: str
    group: Literal["large", "small"]
    metric: Literal["accuracy", "dice"] | None = None
    """None, as are the four below, if the hospital has given the auditor no result."""
    alone: float | None = Field(default=None, ge=0, le=1)
    """On the public test set, with the hospital's own model trained on its own patients."""
    distilled: float | None = Field(default=None, ge=0, le=1)
    """The same after distillation."""
    head_alone: float | None = Field(default=None, ge=0, le=1)
    """A linear head on the public backbone, trained on its own patients."""
    head: float | None = Field(default=None, ge=0, le=1)
    """The public model together with such a head, which the hospital keeps too."""
    epsilon_aggregate: float = Field(ge=0)
    """If at least one of aggregator and custodians is honest, at the charter's delta."""
    epsilon_collusion: float = Field(ge=0)
    """If all of them collude."""


class SecureSumCost(_Fact):
    """What the secure sums of all rounds took."""

    values: int = Field(ge=1)
    """Integers in one release."""
    bytes: int = Field(ge=0)
    """On all legs, all rounds: the sum of the three below."""
    upload_bytes: int = Field(ge=0)
    """Hospitals to aggregator: ciphertexts, manifests, sealed seeds."""
    custodian_bytes: int = Field(ge=0)
    """Aggregator to custodians: the ciphertext sum to the decryptor; manifests and its sealed seeds
    to every unmasker."""
    answer_bytes: int = Field(ge=0)
    """All answers, custodians to aggregator and aggregator to every recipient."""
    seconds: float = Field(ge=0)
    """From each round's closing to its opening, added up, by the log's clock."""


class LogHead(_Fact):
    """The size and root of the evidence log at which the report was made."""

    size: int = Field(ge=1)
    root: str = Field(pattern=r"^[0-9a-f]{64}$")


class PrivacyTerms(_Fact):
    """The charter's limits, restated for the reader."""

    epsilon_limit: str
    delta: str
    unit: str
    adjacency: str
    mechanism: str
    tuning: str | None = None
    """How the charter declares that its parameters were chosen, in a sentence."""


class Report(_Fact):
    """Everything a federation reports about one charter."""

    version: Literal[1] = 1
    federation: str
    charter: str
    """Digest of the charter."""
    task: Literal["classification", "segmentation"]
    dataset: str | None = None
    """What a demo learns from; None, as are the three below, of a real federation."""
    dataset_sentence: str | None = None
    seed: int | None = None
    seconds: float | None = None
    """Of the whole demo, from its start until the report was made."""
    rounds: int
    privacy: PrivacyTerms
    secure_sum: SecureSumCost
    foundation_model_calls: int
    log: LogHead
    hospitals: tuple[HospitalResult, ...] = Field(min_length=1)


class CustodiansInUse(_Fact):
    """Who had a part in opening sums."""

    unmaskers: int = Field(ge=1)
    """How many shared the masks; beside them there is one decryptor."""


class DemoResult(Report):
    """A report and the verdict on the bundle it is in: the form of ``fedhelp demo --json``."""

    evidence_verified: bool
    """Whether the offline verifier accepted the whole bundle, this report included."""
    custodians: CustodiansInUse
