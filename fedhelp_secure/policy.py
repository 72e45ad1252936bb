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
    foundation_model_hosts: [fm.example.org]
    minimum_cohort: 5
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

from fedhelp_secure.charter import Charter, Label
from fedhelp_secure.errors import ConfigurationError, PolicyError

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
PublicKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
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
    minimum_cohort: int | None = Field(default=None, ge=2)

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

    def check(self, charter: Charter) -> None:
        """Raises SitePolicyRefuses, naming the first limit that ``charter`` breaks."""
        self._check_budget(charter)
        if self.tasks is not None and charter.task not in self.tasks:
            raise SitePolicyRefuses(f"this site does not allow the task {charter.task}.")
        if self.minimum_cohort is not None and charter.cohort.minimum < self.minimum_cohort:
            raise SitePolicyRefuses(
                f"this site takes part in cohorts of at least {self.minimum_cohort}, but the "
                f"charter's minimum is {charter.cohort.minimum}."
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
