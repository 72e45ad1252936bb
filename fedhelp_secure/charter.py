"""The charter: one signed document that fixes everything the parties of a federation agree on.

A charter is canonical JSON (RFC 8785) in a DSSE envelope, signed by the registrar's governance
key. Its digest is in every message. Whatever does not fit (ring, CKKS capacity, noise, budget) is a
refused charter, never a wrong sum: see `Charter.check_bounds`, which every party runs when it reads
one, so that nobody has to trust the maker's arithmetic.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from math import isqrt
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedhelp_secure.canonical import canonical_json, digest
from fedhelp_secure.errors import FedHelpError, PolicyError
from fedhelp_secure.privacy.accountant import AccountingError
from fedhelp_secure.privacy.loss import Loss
from fedhelp_secure.privacy.parameters import (
    DpSgd,
    LogitNoise,
    MechanismName,
    Sensitivity,
    Tuning,
    largest_release,
    sensitivity_of,
)
from fedhelp_secure.sealing import SealingKey
from fedhelp_secure.secure_sum.authenticator import SEALED_KEY_BYTES, check_elements
from fedhelp_secure.signing import SigningKey, VerifyingKey, open_document
from fedhelp_secure.transport.identity import check_label

KIND = "charter"

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")]
Group = Literal["large", "small"]

TAIL_SIGMAS = 12
"""The summed noise is taken to stay within this many of its standard deviations (p < 1e-32)."""

CKKS_NOISE_UNITS = 2_700
"""A decrypted number is off by more than this many units of 2**-scale_bits, times the root of the
sum of squared weights, with a probability below 2**-60.

A coefficient's error in a sum is w_1 (e u_1 + e_1 s + f_1) + w_2 (...) + ...: products of
polynomials, with e (the key's) and e_i, f_i from SEAL's centred binomial (42 bits: sub-Gaussian
with variance proxy 42 / 4 = 10.5), and u_i and the key s ternary (proxy 2/3, at most 1). Given e
and s, the terms are independent. The sum of e's 4096 squares is below 52,600 but for a chance of
2**-60 (Hsu, Kakade, Zhang 2012, theorem 1), so e u_i has a proxy of at most 52,600 * 2/3; e_i s of
at most 4096 * 10.5; with f_i together 78,100 for each squared weight. A sub-Gaussian number of that
proxy is beyond t with a probability of at most 2 exp(-t**2 / 156,200): below 2**-60 for t = 2,700.
(Standard deviation: sqrt(2 * 4096 * 10.5 * 2/3 + 10.5) = 240; a test measures it.)"""

LARGEST_NOISE_SHIFT = 2
"""CKKS noise may take up at most 2**-LARGEST_NOISE_SHIFT of the distance between integers: what a
decryptor tolerates (`fedhelp_secure.secure_sum.ckks.SecretContext`)."""

MAXIMUM_UNMASKERS = 8
SMALLEST_RING_BITS = 8
MOST_LANES = 7
SCALE_BITS = range(14, 41)
MODULUS_BITS = 60
"""Of the one prime of CKKS."""

MINIMUM_SHARE_UNITS = 4
"""A noise share has at least this standard deviation, in grid units: sums of discrete Gaussians are
then within 1e-60 of one discrete Gaussian (Kairouz, Liu, Steinke 2021, theorem 1)."""


class CharterRefused(PolicyError):
    """The charter does not hold together, or is not signed by the governance key."""

    code = "charter"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProxySet(_Document):
    """The public images that every soft label is about."""

    digest: Digest
    """Of the pixels: see `fedhelp_secure.public_set.proxy_digest`."""
    count: int = Field(ge=2, le=100_000)
    height: int = Field(ge=16, le=4096)
    width: int = Field(ge=16, le=4096)
    public_set_digest: Digest
    """Of the file that holds images, backbone features and projection."""


class Hospital(_Document):
    """One hospital and the keys that speak for it."""

    name: Label
    group: Group
    signing_key: str
    sealing_key: str
    authenticator_key: str
    """The federation's authenticator key, sealed to this hospital: base64 of 1,168 bytes. See
    `fedhelp_secure.secure_sum.authenticator`."""

    def verifying_key(self) -> VerifyingKey:
        """The key that signs this hospital's manifests and ledger."""
        return VerifyingKey.from_base64(self.signing_key)

    def recipient_key(self) -> SealingKey:
        """The key to which answers for this hospital are sealed."""
        return SealingKey.from_base64(self.sealing_key)

    def sealed_authenticator_key(self) -> bytes:
        """The bytes that this hospital's private sealing key opens; raises CharterRefused."""
        try:
            sealed = base64.b64decode(self.authenticator_key, validate=True)
        except ValueError:
            sealed = b""
        if len(sealed) != SEALED_KEY_BYTES:
            raise CharterRefused(
                f"a hospital's authenticator_key must be base64 of {SEALED_KEY_BYTES} bytes; make "
                "the charter with 'fedhelp keys charter'."
            )
        return sealed


class SignedParty(_Document):
    """A party of which only signatures are needed."""

    name: Label
    signing_key: str

    def verifying_key(self) -> VerifyingKey:
        """The key that signs this party's statements."""
        return VerifyingKey.from_base64(self.signing_key)


class Decryptor(SignedParty):
    """Custodian A."""

    context_digest: Digest
    """Of the serialised public CKKS context (no secret key)."""


class Unmasker(SignedParty):
    """A custodian B: one of those among whom the masks are divided."""

    sealing_key: str

    def recipient_key(self) -> SealingKey:
        """The key to which mask seeds are sealed."""
        return SealingKey.from_base64(self.sealing_key)


class Custodians(_Document):
    """The custodians, and the key of each with which its epochs begin under this charter.

    Later epochs follow by signed statements: see `fedhelp_secure.secure_sum.epochs`.
    """

    epoch: int = Field(ge=1)
    """Whose keys these are."""
    decryptor: Decryptor
    unmaskers: tuple[Unmasker, ...] = Field(min_length=1, max_length=MAXIMUM_UNMASKERS)
    """In ascending order of name. All of them must answer, so the aggregator, the decryptor and
    all unmaskers but one together still lack a mask."""

    def unmasker(self, name: str) -> Unmasker:
        """The unmasker called ``name``; raises CharterRefused if there is none."""
        for unmasker in self.unmaskers:
            if unmasker.name == name:
                return unmasker
        raise CharterRefused("this unmasker is not in the charter; ask the registrar for another.")


class Weights(_Document):
    """Public integer weight of each group in the sum."""

    large: int = Field(ge=1, le=64)
    small: int = Field(ge=1, le=64)

    def of(self, group: Group) -> int:
        """The weight of ``group``."""
        return self.large if group == "large" else self.small


class SecureSum(_Document):
    """Ring, lanes and CKKS parameters: `fedhelp_secure.secure_sum.plan` chooses them."""

    values: int = Field(ge=1, le=1 << 26)
    """Integers in one release."""
    check_elements: int = Field(ge=1, le=64)
    """Elements that the authenticator adds to them."""
    ring_bits: int = Field(ge=SMALLEST_RING_BITS, le=MODULUS_BITS - 1 - SCALE_BITS[0])
    """Bits of one value's lane: sums stay within them."""
    lanes: int = Field(ge=1, le=MOST_LANES)
    """Values in one element of the ring modulo 2**packed_bits."""
    packed_bits: int = Field(ge=SMALLEST_RING_BITS, le=MODULUS_BITS - 1 - SCALE_BITS[0])
    """Bits of one element: at least those of its lanes."""
    fraction_bits: int = Field(ge=4, le=24)
    """A real v is the integer round(v * 2**fraction_bits); one grid unit is 2**-fraction_bits."""
    polynomial_degree: Literal[4096] = 4096
    """Elements in a frame, one a coefficient."""
    coefficient_modulus_bits: tuple[Literal[60]] = (60,)
    scale_bits: int = Field(ge=SCALE_BITS[0], le=SCALE_BITS[-1])

    @property
    def packed_elements(self) -> int:
        """Elements that the values of one release take, the last one filled up with zeros."""
        return -(-self.values // self.lanes)

    @property
    def elements(self) -> int:
        """Elements in one release: its values, then its tags."""
        return self.packed_elements + self.check_elements

    @property
    def frames(self) -> int:
        """Frames in one ciphertext, of ``polynomial_degree`` elements each; the last is padded."""
        return -(-self.elements // self.polynomial_degree)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame: two polynomials of 64-bit residues."""
        return 2 * 8 * self.polynomial_degree

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one whole ciphertext."""
        return self.frames * self.frame_bytes

    @property
    def capacity_bits(self) -> int:
        """Weighted sums of signed elements may span up to 2**capacity_bits.

        A coefficient then stays below 2**(capacity_bits - 1 + scale_bits), a quarter of the 60-bit
        prime, and with its noise below half of it.
        """
        return capacity_bits(self.scale_bits)


class Privacy(_Document):
    """The budget, and the noise that keeps it. The unit is the patient."""

    epsilon: str = Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$")
    """Limit on epsilon (aggregate) over all rounds, as a decimal."""
    delta: str = Field(pattern=r"^1e-[0-9]{1,2}$")
    unit: Literal["patient"] = "patient"
    adjacency: Literal["add-remove-one"] = "add-remove-one"
    mechanism: MechanismName = "probe"
    """``rehearsal`` releases invented numbers only: no node releases patients under it."""
    clip_units: int = Field(ge=1)
    """L2 bound in grid units: of one patient's vector (``logit_noise``: of the whole matrix)."""
    sigma_units: int = Field(ge=1)
    """Standard deviation in grid units: of the honest cohort's noise on the weighted sum, or, for
    ``dp_sgd``, of the noise that a hospital adds to each step's sum of gradients."""
    maximum_patients: int = Field(ge=1, le=1_000_000)
    """A hospital contributes at most so many patients to a release."""
    maximum_images: int = Field(default=100, ge=1, le=10_000)
    """At most so many images of one patient count; see `fedhelp_client.data.contribution`."""
    dp_sgd: DpSgd | None = None
    logit_noise: LogitNoise | None = None
    tuning: Tuning | None = None
    """How dimension, rounds, ridge and clip were chosen; None declares nothing."""

    @model_validator(mode="after")
    def _own_parameters_only(self) -> Privacy:
        for name, parameters in (("dp_sgd", self.dp_sgd), ("logit_noise", self.logit_noise)):
            if (parameters is not None) != (self.mechanism == name):
                raise ValueError(f"privacy.{name} must be given for that mechanism and no other")
        return self

    @property
    def sensitivity(self) -> Sensitivity:
        """Of a hospital's own query, before its weight."""
        return sensitivity_of(self.mechanism, self.clip_units)


class Probe(_Document):
    """Public parameters of the functional gradient (DESIGN section 6)."""

    dimension: int = Field(ge=2, le=512)
    """Columns of the projected feature, the constant entry included."""
    update: Literal["gradient", "moments"] = "gradient"
    """How an opened sum moves the model: see `fedhelp_secure.privacy.probe.apply_step`."""
    ridge: str = Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,6})?$")
    step: str = Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,6})?$")
    nominal_patients: int = Field(ge=1)
    """Public planning figure that divides an opened sum; not a count of anybody's patients."""


class Cohort(_Document):
    """Who must take part before anything is opened."""

    minimum: int = Field(ge=2)
    """m: contributions below which a round is not opened."""
    colluders: int = Field(ge=1)
    """c: contributors that may collude or add no noise; at least 1, as each knows its own share."""
    minimum_large: int = Field(ge=0)
    minimum_small: int = Field(ge=0)

    @property
    def honest(self) -> int:
        """t = m - c: shares that must carry the whole noise."""
        return self.minimum - self.colluders


class Rounds(_Document):
    """How often, and how long a round waits."""

    count: int = Field(ge=1, le=100)
    deadline_seconds: int = Field(ge=5, le=30 * 24 * 3600)


ProviderName = Literal[
    "open-inference-http", "open-inference-grpc", "openai-embeddings", "local-onnx"
]
"""How a foundation model is spoken to; see `fedhelp_server.broker.providers`."""

MAXIMUM_BATCHES = 64


class FoundationModel(_Document):
    """The one call: for what, to whom, and how."""

    purpose: Label
    provider: ProviderName = "open-inference-http"
    url: str | None = Field(default=None, pattern=r"^https://[^\s@#?]+$", max_length=500)
    """Where a remote provider is; absent for ``local-onnx``."""
    model: Label
    weights_digest: Digest | None = None
    """Of the file of ``local-onnx``; absent for the others."""
    batch_images: int = Field(default=64, ge=1, le=10_000)
    """Images in one request; the call has as many requests as it takes."""
    idempotent: bool = False
    """The provider guarantees that a request that comes again with its Idempotency-Key is computed
    and charged once. Only then is a request that may have arrived sent again."""

    @model_validator(mode="after")
    def _where_it_is(self) -> FoundationModel:
        local = self.provider == "local-onnx"
        if local != (self.url is None) or local != (self.weights_digest is not None):
            raise ValueError("local-onnx needs weights_digest and no url, all others the reverse")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is at its default stays unsaid: charters from before an entry keep their digest."""
        document: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in document.items() if value != fields[name].default}

    @property
    def hostname(self) -> str | None:
        """Host of the URL without its port, in lower case; None for ``local-onnx``.

        Raises CharterRefused if the URL has none.
        """
        return None if self.url is None else self._split(self.url).hostname

    @property
    def host(self) -> str:
        """``host:port`` as records name it; ``local`` for ``local-onnx``. Raises CharterRefused."""
        if self.url is None:
            return "local"
        return f"{self.hostname}:{self.port}"

    @property
    def port(self) -> int:
        """Port of the URL, 443 unless it says otherwise; raises CharterRefused."""
        try:
            return self._split(self.url or "").port or 443
        except ValueError as error:
            raise _no_url() from error

    @property
    def path(self) -> str:
        """Path of the URL, without a slash at its end."""
        return self._split(self.url or "").path.rstrip("/")

    def _split(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise _no_url() from error
        host, path = parts.hostname or "", parts.path
        # One strict spelling, so that no two readers of a URL can see two hosts in it.
        if not re.fullmatch(r"[a-z0-9.-]+|[0-9a-f:.]+", host) or not re.fullmatch(
            r"[A-Za-z0-9/._~-]*", path
        ):
            raise _no_url()
        return parts


def _no_url() -> CharterRefused:
    return CharterRefused(
        "the charter's foundation_model.url is not a plain https URL; ask the registrar for "
        "another charter."
    )


class Charter(_Document):
    """Everything the parties agree on. Equal charters have equal digests."""

    version: Literal[1] = 1
    federation: Label
    name: Label
    created: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    task: Literal["classification", "segmentation"]
    classes: tuple[Annotated[str, Field(min_length=1, max_length=60)], ...] = Field(
        min_length=2, max_length=1000
    )
    proxy: ProxySet
    hospitals: tuple[Hospital, ...] = Field(min_length=2, max_length=1000)
    weights: Weights
    secure_sum: SecureSum
    privacy: Privacy
    probe: Probe
    cohort: Cohort
    rounds: Rounds
    foundation_model: FoundationModel
    custodians: Custodians
    aggregator: SignedParty
    broker: SignedParty
    auditors: tuple[SignedParty, ...]
    retention_days: int = Field(ge=1, le=36500)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Charter:
        names = [hospital.name for hospital in self.hospitals]
        if names != sorted(set(names)):
            raise ValueError("hospitals must be in ascending order of name, each named once")
        keys = [hospital.signing_key for hospital in self.hospitals]
        keys += [party.signing_key for party in self.signed_parties()]
        if len(set(keys)) != len(keys):
            raise ValueError("two parties share a signing key; every party needs its own")
        unmaskers = [unmasker.name for unmasker in self.custodians.unmaskers]
        if unmaskers != sorted(set(unmaskers)):
            raise ValueError("unmaskers must be in ascending order of name, each named once")
        return self

    def signed_parties(self) -> tuple[SignedParty, ...]:
        """Every party but the hospitals."""
        custodians = (self.custodians.decryptor, *self.custodians.unmaskers)
        return (*custodians, self.aggregator, self.broker, *self.auditors)

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """Digest of the canonical JSON: the charter's name in every message."""
        return digest(canonical_json(self.document()))

    def hospital(self, name: str) -> Hospital:
        """The hospital called ``name``; raises CharterRefused if the charter has none."""
        for hospital in self.hospitals:
            if hospital.name == name:
                return hospital
        raise CharterRefused(
            "this hospital is not in the charter; ask the registrar for one that names it."
        )

    def weight_of(self, name: str) -> int:
        """The weight of the hospital called ``name``."""
        return self.weights.of(self.hospital(name).group)

    @property
    def maximum_weight(self) -> int:
        """The largest weight of any hospital in the charter."""
        return max(self.weights.of(hospital.group) for hospital in self.hospitals)

    @property
    def total_weight(self) -> int:
        """The sum of all hospitals' weights."""
        return sum(self.weights.of(hospital.group) for hospital in self.hospitals)

    def share_units(self, group: Group) -> int:
        """Scale of one hospital's discrete Gaussian share: sigma / (w sqrt(t)), rounded up.

        0 for ``dp_sgd``: its noise is in the training, and its labels get none.
        """
        if self.privacy.dp_sgd is not None:
            return 0
        return share_units(
            sigma_units=self.privacy.sigma_units,
            weight=self.weights.of(group),
            honest=self.cohort.honest,
        )

    def round_loss(self, group: Group) -> Loss:
        """Loss of one patient of ``group`` in one round, outsiders' view (aggregate)."""
        sensitivity = int(self.privacy.sensitivity.units)
        if self.privacy.dp_sgd is not None:
            return Loss.of_sampled_gaussian(
                rate=self.privacy.dp_sgd.rate,
                steps=self.privacy.dp_sgd.steps,
                sensitivity=sensitivity,
                sigma=self.privacy.sigma_units,
            )
        return Loss.of_gaussian(
            sensitivity=self.weights.of(group) * sensitivity, sigma=self.privacy.sigma_units
        )

    def round_loss_collusion(self, group: Group) -> Loss:
        """The same if aggregator and all custodians collude: the hospital's own noise alone.

        For ``dp_sgd`` it is the same loss: all of its noise is the hospital's own.
        """
        if self.privacy.dp_sgd is not None:
            return self.round_loss(group)
        return Loss.of_gaussian(
            sensitivity=int(self.privacy.sensitivity.units), sigma=self.share_units(group)
        )

    def round_rho(self, group: Group) -> Fraction:
        """`round_loss` as zCDP; raises AccountingError if it is a Renyi loss."""
        return _rho(self.round_loss(group))

    def round_rho_collusion(self, group: Group) -> Fraction:
        """`round_loss_collusion` as zCDP; raises AccountingError if it is a Renyi loss."""
        return _rho(self.round_loss_collusion(group))

    def bound_of_sum(self) -> int:
        """Largest magnitude that any entry of an honest weighted sum can have, in grid units."""
        return bound_of_sum(
            [
                (self.weights.of(hospital.group), self.share_units(hospital.group))
                for hospital in self.hospitals
            ],
            largest_release=largest_release(
                self.privacy.mechanism,
                clip_units=self.privacy.clip_units,
                maximum_patients=self.privacy.maximum_patients,
                fraction_bits=self.secure_sum.fraction_bits,
            ),
        )

    def check_bounds(self) -> None:
        """Raises CharterRefused, saying which parameter to change, unless every bound holds."""
        self._check_cohort()
        self._check_keys()
        self._check_values()
        self._check_foundation_model()
        if self.bound_of_sum() >= 1 << (self.secure_sum.ring_bits - 1):
            raise CharterRefused(
                f"sums can reach {self.bound_of_sum()} grid units but the ring of "
                f"{self.secure_sum.ring_bits} bits holds less; raise ring_bits, or lower "
                "maximum_patients, the weights or fraction_bits."
            )
        if self.total_weight << self.secure_sum.packed_bits > 1 << self.secure_sum.capacity_bits:
            raise CharterRefused(
                f"a total weight of {self.total_weight} over elements of "
                f"{self.secure_sum.packed_bits} bits does not fit the "
                f"{self.secure_sum.capacity_bits} bits that CKKS carries exactly; lower lanes, "
                "ring_bits, scale_bits or the weights."
            )
        weights_squared = sum(self.weights.of(hospital.group) ** 2 for hospital in self.hospitals)
        if not noise_fits(weights_squared, self.secure_sum.scale_bits):
            raise CharterRefused(
                f"the noise that CKKS itself adds could reach 1/4 of an integer at a scale of "
                f"{self.secure_sum.scale_bits} bits; raise scale_bits or lower the weights."
            )
        self._check_privacy()

    def _check_values(self) -> None:
        labels = self.privacy.dp_sgd or self.privacy.logit_noise
        if labels is not None:
            expected = self.proxy.count * labels.tokens * len(self.classes)
            if self.secure_sum.values != expected:
                raise CharterRefused(
                    "secure_sum.values must be proxy.count times tokens times the number of "
                    "classes; make the charter with 'fedhelp keys charter'."
                )
        probe_values = self.probe.dimension * len(self.classes)
        if self.privacy.mechanism == "probe" and self.secure_sum.values != probe_values:
            raise CharterRefused(
                "secure_sum.values must be probe.dimension times the number of classes; "
                "make the charter with 'fedhelp keys charter'."
            )
        ring_bits, packed_bits = self.secure_sum.ring_bits, self.secure_sum.packed_bits
        if ring_bits * self.secure_sum.lanes > packed_bits:
            raise CharterRefused(
                f"{self.secure_sum.lanes} lanes of {ring_bits} bits do not fit an element of "
                f"{packed_bits} bits; make the charter with 'fedhelp keys charter'."
            )
        if self.secure_sum.check_elements != check_elements(
            ring_bits=ring_bits, packed_bits=packed_bits
        ):
            raise CharterRefused(
                "secure_sum.check_elements is not what the authenticator's tags take in this ring; "
                "make the charter with 'fedhelp keys charter'."
            )

    def _check_foundation_model(self) -> None:
        _ = self.foundation_model.host  # raises unless the URL has one
        if self.proxy.count > MAXIMUM_BATCHES * self.foundation_model.batch_images:
            raise CharterRefused(
                f"the foundation model is asked in at most {MAXIMUM_BATCHES} batches; raise "
                "foundation_model.batch_images or make a smaller public set."
            )

    def _check_cohort(self) -> None:
        groups = [hospital.group for hospital in self.hospitals]
        if self.cohort.honest < 1:
            raise CharterRefused("cohort.minimum must be above cohort.colluders (t = m - c >= 1).")
        if self.cohort.minimum > len(groups):
            raise CharterRefused("cohort.minimum is above the number of hospitals; lower it.")
        if self.cohort.minimum_large > groups.count("large"):
            raise CharterRefused("cohort.minimum_large is above the number of large hospitals.")
        if self.cohort.minimum_small > groups.count("small"):
            raise CharterRefused("cohort.minimum_small is above the number of small hospitals.")

    def _check_keys(self) -> None:
        for hospital in self.hospitals:
            check_label(hospital.name, "a hospital's name")
            hospital.verifying_key()
            hospital.recipient_key()
            hospital.sealed_authenticator_key()
        for party in self.signed_parties():
            party.verifying_key()
        for unmasker in self.custodians.unmaskers:
            unmasker.recipient_key()

    def _check_privacy(self) -> None:
        if self.privacy.dp_sgd is not None:
            self._check_dp_sgd(self.privacy.dp_sgd)
        else:
            self.check_shares()
        single = self.privacy.mechanism in ("dp_sgd", "logit_noise")
        if single and self.rounds.count != 1:
            raise CharterRefused(
                f"{self.privacy.mechanism} releases the same labels in every round: a second round "
                "would cost budget and tell nothing new. Set rounds.count to 1."
            )
        groups: set[Group] = {hospital.group for hospital in self.hospitals}
        for group in sorted(groups):
            spent = self.round_loss(group).times(self.rounds.count).epsilon(self.privacy.delta)
            if spent > Fraction(self.privacy.epsilon):
                raise CharterRefused(
                    f"{self.rounds.count} rounds cost a {group} hospital's patients more than "
                    f"epsilon {self.privacy.epsilon}; raise sigma_units or run fewer rounds."
                )

    def check_shares(self) -> None:
        """Raises CharterRefused unless honest shares remain, each of enough grid units.

        A node runs it again before it does anything: what it protects is the node's own patients.
        """
        if self.cohort.honest < 1:
            raise CharterRefused("cohort.minimum must be above cohort.colluders (t = m - c >= 1).")
        if self.privacy.dp_sgd is not None:
            return
        for hospital in self.hospitals:
            if self.share_units(hospital.group) < MINIMUM_SHARE_UNITS:
                raise CharterRefused(
                    f"a noise share would be under {MINIMUM_SHARE_UNITS} grid units; "
                    "raise fraction_bits."
                )

    def _check_dp_sgd(self, parameters: DpSgd) -> None:
        if self.privacy.sigma_units < MINIMUM_SHARE_UNITS:
            raise CharterRefused(
                f"a step's noise would be under {MINIMUM_SHARE_UNITS} grid units; "
                "raise fraction_bits."
            )
        if parameters.rate * parameters.nominal_patients < 1:
            raise CharterRefused(
                "sampling_rate times nominal_patients is under one patient a step; raise one."
            )
        if parameters.model == "group_norm_cnn" and self.task == "segmentation":
            raise CharterRefused(
                "group_norm_cnn labels whole images; choose the model linear_head for segmentation."
            )


def _rho(loss: Loss) -> Fraction:
    if loss.curve:
        raise AccountingError("the loss of sampled steps is no rho; ask for the whole loss.")
    return loss.rho


def share_units(*, sigma_units: int, weight: int, honest: int) -> int:
    """Scale of one discrete Gaussian share: sigma / (w sqrt(t)), rounded up."""
    squared = Fraction(sigma_units**2, weight**2 * honest)
    ceiling = -(-squared.numerator // squared.denominator)
    root = isqrt(ceiling)
    return root if root * root == ceiling else root + 1


def bound_of_sum(weights_and_shares: Sequence[tuple[int, int]], *, largest_release: int) -> int:
    """Largest magnitude of an entry of a weighted sum, in grid units.

    ``largest_release`` bounds a release before noise; a share's scale goes with each weight.
    """
    noise_squared = sum((weight * share) ** 2 for weight, share in weights_and_shares)
    signal = sum(weight for weight, _ in weights_and_shares) * largest_release
    return signal + TAIL_SIGMAS * (isqrt(noise_squared) + 1)


def capacity_bits(scale_bits: int) -> int:
    """See `SecureSum.capacity_bits`: one bit of the prime is the sign."""
    return MODULUS_BITS - 1 - scale_bits


def noise_fits(weights_squared: int, scale_bits: int) -> bool:
    """Whether CKKS noise stays within a quarter of an integer; the sum is over all hospitals."""
    noise_squared = CKKS_NOISE_UNITS**2 * weights_squared
    return noise_squared <= 1 << 2 * (scale_bits - LARGEST_NOISE_SHIFT)


def parse_charter(document: dict[str, Any]) -> Charter:
    """The charter in ``document``, its bounds checked; raises CharterRefused otherwise."""
    try:
        # Through JSON text: strict mode then takes arrays for tuples, and coerces nothing else.
        charter = Charter.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        reason = re.sub(r"\s+", " ", first["msg"])
        raise CharterRefused(f"the charter is not valid at {where}: {reason}.") from error
    try:
        charter.check_bounds()
    except CharterRefused:
        raise
    except FedHelpError as error:
        raise CharterRefused(f"the charter is not valid: {error}") from error
    return charter


def sign_charter(charter: Charter, governance_key: SigningKey) -> bytes:
    """The DSSE envelope that every party takes the charter from."""
    charter.check_bounds()
    return governance_key.sign_document(KIND, charter.document())


def open_charter(envelope: bytes, governance_key: VerifyingKey) -> Charter:
    """The charter in ``envelope``: signature first, then form, then bounds.

    Raises SignatureRefused, MalformedMessage or CharterRefused.
    """
    return parse_charter(open_document(KIND, envelope, governance_key))
