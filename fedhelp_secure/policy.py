"""A site's own policy: what this hospital allows, whatever a charter says. The stricter wins.

A YAML file at the hospital; an entry that is absent sets no limit of its own::

    epsilon: "3"                  # aggregate, per charter
    epsilon_collusion: "12"       # per charter
    year_epsilon: "6"             # aggregate, per calendar year (UTC)
    year_epsilon_collusion: "24"
    data_set: breast-ultrasound   # whose patients are released; a data set has one budget for life
    data_set_epsilon: "8"         # aggregate, for the life of the data set
    data_set_epsilon_collusion: "32"
    lifetime_epsilon: "10"        # aggregate, over all charters of this hospital's ledger
    lifetime_epsilon_collusion: "40"
    lifetime_delta: "1e-6"        # at which the limits of year, data set and lifetime hold
    consent_key: 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=   # the privacy officer's, public
    delta: "1e-6"                 # the largest delta a charter may use
    tasks: [classification]
    mechanisms: [probe]
    foundation_model_hosts: [fm.example.org]
    minimum_cohort: 5
    minimum_unmaskers: 2          # custodians B, each at another organisation
    maximum_images: 20            # of one patient that a charter may count
    charters:                     # these and no others, by the digest that preflight prints
      - sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    charter_signers:              # governance keys, whatever the state directory trusts
      - 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
    hours:                        # when the node may release
      days: [mon, tue, wed, thu, fri]   # on which the hours begin
      begin: "20:00"
      end: "06:00"                # of the next day, because it is not after the beginning
      time_zone: Europe/Berlin
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedhelp_secure.charter import Charter, Digest, Label
from fedhelp_secure.errors import ConfigurationError, PolicyError
from fedhelp_secure.hours import ReleaseHours
from fedhelp_secure.privacy.parameters import MechanismName
from fedhelp_secure.signing import VerifyingKey

MAXIMUM_BYTES = 1 << 16


class SitePolicyRefuses(PolicyError):
    """This site's policy forbids taking part in a charter."""

    code = "site-policy"


class SitePolicyInvalid(ConfigurationError):
    """The site policy's file cannot be used; without it nothing may start."""

    code = "site-policy-file"


def _number_as_text(value: object) -> object:
    # YAML reads an unquoted 3 or 0.5 as a number; its shortest decimal is what was written.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


Limit = Annotated[
    str, BeforeValidator(_number_as_text), Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$")
]
Delta = Annotated[str, Field(pattern=r"^1e-[0-9]{1,2}$")]
Host = Annotated[str, Field(pattern=r"^[a-z0-9.:-]{1,253}$")]
# One spelling for each key: 32 bytes leave two bits of the last character, which must be zero.
PublicKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
"""Base64 of an Ed25519 public key."""

UNNAMED_DATA_SET = "unnamed"


class SitePolicy(BaseModel):
    """The limits of one hospital; None sets none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epsilon: Limit | None = None
    """Largest epsilon (aggregate) that a charter may spend here."""
    epsilon_collusion: Limit | None = None
    """Largest epsilon (collusion) that a charter may spend here; the ledger keeps it."""
    year_epsilon: Limit | None = None
    """Largest epsilon (aggregate) of all charters in one calendar year (UTC), at
    ``lifetime_delta``; the ledger keeps this and all that follow."""
    year_epsilon_collusion: Limit | None = None
    data_set: Label = UNNAMED_DATA_SET
    """Name of the patients' data set. Patients who are in two data sets spend from both: only the
    lifetime limit then covers them."""
    data_set_epsilon: Limit | None = None
    """Of all charters on this data set."""
    data_set_epsilon_collusion: Limit | None = None
    lifetime_epsilon: Limit | None = None
    """Of all charters together."""
    lifetime_epsilon_collusion: Limit | None = None
    lifetime_delta: Delta = "1e-6"
    consent_key: PublicKey | None = None
    """The privacy officer's public key: only what it signs raises a limit that the ledger knows."""
    delta: Delta | None = None
    tasks: tuple[Literal["classification", "segmentation"], ...] | None = Field(
        default=None, min_length=1
    )
    foundation_model_hosts: tuple[Host, ...] | None = Field(default=None, min_length=1)
    """Host names, without port, that a charter's foundation model may be at."""
    mechanisms: tuple[MechanismName, ...] | None = Field(default=None, min_length=1)
    minimum_cohort: int | None = Field(default=None, ge=2)
    minimum_unmaskers: int | None = Field(default=None, ge=1)
    maximum_images: int | None = Field(default=None, ge=1)
    """Largest number of one patient's images that a charter may count."""
    charters: tuple[Digest, ...] | None = Field(default=None, min_length=1)
    """Digests of the only charters that this site takes part in."""
    charter_signers: tuple[PublicKey, ...] | None = Field(default=None, min_length=1)
    """Governance keys whose charters this site takes part in; where ``charters`` is given too, a
    charter must satisfy both."""
    hours: ReleaseHours | None = None
    """When the node may release; outside them it waits."""

    @classmethod
    def load(cls, path: Path) -> SitePolicy:
        """The policy in the YAML file at ``path``; raises SitePolicyInvalid if it is not one."""
        try:
            with path.open("rb") as file:
                data = file.read(MAXIMUM_BYTES + 1)
        except OSError as error:
            raise SitePolicyInvalid(
                f"{path} cannot be read; give the site policy's file."
            ) from error
        if len(data) > MAXIMUM_BYTES:
            raise SitePolicyInvalid(f"{path} is too long for a site policy.")
        try:
            document = yaml.load(data, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
            # Through JSON text: strict mode then takes arrays for tuples, and coerces nothing else.
            return cls.model_validate_json(json.dumps(document))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            reason = re.sub(r"\s+", " ", first["msg"])
            raise SitePolicyInvalid(f"{path} is not valid at {where}: {reason}.") from error
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise SitePolicyInvalid(f"{path} is not a YAML mapping of limits.") from error

    def check_signer(self, signer: VerifyingKey) -> None:
        """Raises SitePolicyRefuses unless ``signer``, who signed a charter, may sign for this site.

        The state directory trusts a governance key of its own; this is the security team's pin.
        """
        allowed = self.charter_signers
        # Public keys: there is no secret that a comparison's time could tell.
        if allowed is not None and signer.to_base64() not in allowed:
            raise SitePolicyRefuses(
                "the charter is signed by a governance key that this site's policy does not name "
                "under charter_signers; compare fingerprints with the registrar."
            )

    def check(self, charter: Charter) -> None:
        """Raises SitePolicyRefuses, naming the first limit that ``charter`` breaks."""
        if self.charters is not None and charter.digest not in self.charters:
            raise SitePolicyRefuses(
                f"this site's policy does not name the charter {charter.digest} under charters; "
                "review it, and add its digest if it may run."
            )
        self._check_budget(charter)
        if self.tasks is not None and charter.task not in self.tasks:
            raise SitePolicyRefuses(f"this site does not allow the task {charter.task}.")
        self._check_mechanism(charter)
        self._check_parties(charter)

    def _check_mechanism(self, charter: Charter) -> None:
        mechanism, images = charter.privacy.mechanism, charter.privacy.maximum_images
        if self.mechanisms is not None and mechanism not in self.mechanisms:
            raise SitePolicyRefuses(f"this site does not allow the mechanism {mechanism}.")
        if self.maximum_images is not None and images > self.maximum_images:
            raise SitePolicyRefuses(
                f"the charter counts up to {images} images of one patient, this site allows at "
                f"most {self.maximum_images}."
            )

    def _check_parties(self, charter: Charter) -> None:
        if self.minimum_cohort is not None and charter.cohort.minimum < self.minimum_cohort:
            raise SitePolicyRefuses(
                f"this site takes part in cohorts of at least {self.minimum_cohort}, but the "
                f"charter's minimum is {charter.cohort.minimum}."
            )
        unmaskers = len(charter.custodians.unmaskers)
        if self.minimum_unmaskers is not None and unmaskers < self.minimum_unmaskers:
            raise SitePolicyRefuses(
                f"this site takes part where there are at least {self.minimum_unmaskers} "
                f"unmaskers, but the charter has {unmaskers}."
            )
        host, allowed = charter.foundation_model.hostname, self.foundation_model_hosts
        # A model in a file is at no host: nothing leaves for it.
        if allowed is not None and host is not None and host not in allowed:
            raise SitePolicyRefuses(
                "this site does not allow the host of the charter's foundation model."
            )

    def _check_budget(self, charter: Charter) -> None:
        privacy = charter.privacy
        if self.epsilon is not None and Fraction(privacy.epsilon) > Fraction(self.epsilon):
            raise SitePolicyRefuses(
                f"the charter may spend epsilon {privacy.epsilon}, this site allows at most "
                f"{self.epsilon}."
            )
        if self.delta is not None and Fraction(privacy.delta) > Fraction(self.delta):
            raise SitePolicyRefuses(
                f"the charter's delta is {privacy.delta}, this site allows at most {self.delta}."
            )


class _UniqueKeyLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key written twice: the later, laxer limit would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the base class; raises ConstructorError if a key occurs twice."""
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) != len(keys):
            raise yaml.constructor.ConstructorError(None, None, "a key is there twice")
        return super().construct_mapping(node, deep)
