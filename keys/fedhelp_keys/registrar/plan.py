"""The YAML from which a charter is planned: what people decide, nothing that is computed."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedhelp_secure.charter import Cohort, FoundationModel, Label, Probe, Rounds, Weights
from fedhelp_secure.errors import ConfigurationError
from fedhelp_secure.privacy.parameters import DpSgdChoices, MechanismName, Tuning

_LIMIT_BYTES = 1024 * 1024


class PlanRefused(ConfigurationError):
    """The YAML plan of a charter is not valid, or does not fit who is enrolled."""

    code = "plan"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PrivacyPlan(_Document):
    """The budget in the units that people think in."""

    epsilon: str = Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,6})?$")
    """Limit on epsilon (aggregate) over all rounds."""
    mechanism: MechanismName = "probe"
    """``rehearsal``: invented numbers only, to try a federation before any patient is in it."""
    delta: str = Field(pattern=r"^1e-[0-9]{1,2}$")
    clip: str = Field(pattern=r"^[0-9]{1,4}(\.[0-9]{1,6})?$")
    """L2 bound of one patient's vector (``logit_noise``: of the whole matrix), as a real."""
    maximum_patients: int = Field(ge=1)
    maximum_images: int = Field(default=100, ge=1, le=10_000)
    """Of one patient."""
    dp_sgd: DpSgdChoices | None = None
    tuning: Tuning | None = None
    """How dimension, rounds, ridge and clip were chosen."""

    @model_validator(mode="after")
    def _own_parameters_only(self) -> PrivacyPlan:
        if (self.dp_sgd is not None) != (self.mechanism == "dp_sgd"):
            raise ValueError("privacy.dp_sgd must be given for that mechanism and no other")
        return self


class SecureSumPlan(_Document):
    """The grid; ring, lanes and scale follow from cohort, weights and noise."""

    fraction_bits: int = Field(ge=4, le=24)
    values: int | None = None
    """Integers in a release, for a rehearsal only; otherwise probe and classes give it."""


class CharterPlan(_Document):
    """Everything that a federation decides; bounds are `fedhelp_secure.charter`'s to check."""

    name: Label
    task: Literal["classification", "segmentation"]
    classes: tuple[str, ...]
    hospitals: tuple[Label, ...] = Field(min_length=2)
    weights: Weights
    privacy: PrivacyPlan
    secure_sum: SecureSumPlan
    probe: Probe
    cohort: Cohort
    rounds: Rounds
    foundation_model: FoundationModel
    retention_days: int


class _Loader(yaml.SafeLoader):
    """Safe YAML in which no key may stand twice: the last one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the parent's, with the check."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(map(str, keys))) != len(keys):
            raise yaml.YAMLError("a key stands twice")
        return super().construct_mapping(node, deep)


def load_plan(path: Path) -> CharterPlan:
    """The plan in the YAML file at ``path``; raises PlanRefused naming the entry to mend."""
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise PlanRefused(f"{path} is too long for a charter's plan.")
        loaded = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise PlanRefused(f"{path} cannot be read; check the path given with --config.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise PlanRefused(
            f"{path} is not YAML, or gives an entry twice; mend it{_line(error)}."
        ) from error
    try:
        # Through JSON text: strict mode then takes arrays for tuples, and coerces nothing else.
        return CharterPlan.model_validate_json(json.dumps(loaded))
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanRefused(f"{path} is no charter plan: {_reason(error)}.") from error


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f" near line {mark.line + 1}"


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it may hold texts, whole numbers and lists only; put other values in quotes"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    hint = "; put it in quotes" if first["type"] == "string_type" else ""
    return f"{where}: {first['msg']}{hint}"
