"""Step 12 of the verifier: the report says nothing better than the evidence proves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedhelp_secure.charter import Charter, Group
from fedhelp_secure.evidence import layout
from fedhelp_secure.evidence.layout import BundleFiles, BundleRefused
from fedhelp_secure.evidence.verify_ledgers import Losses
from fedhelp_secure.evidence.verify_log import Record
from fedhelp_secure.evidence.verify_rounds import Rounds
from fedhelp_secure.report.build import privacy_terms, secure_sum_cost
from fedhelp_secure.report.model import Report

_Number = Annotated[
    Decimal,
    Field(ge=0),
    BeforeValidator(lambda value: Decimal(value) if type(value) is int else value),
]
"""A JSON number as it is written: no binary rounding stands between report and comparison."""


class _Claims(BaseModel):
    """What is checked; a report says more than that."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class HospitalClaims(_Claims):
    """What the report says of one hospital's patients."""

    name: str
    group: Group
    epsilon_aggregate: _Number
    epsilon_collusion: _Number


class LogClaims(_Claims):
    """The checkpoint at which the report was made; ``root`` in hexadecimal."""

    size: int = Field(ge=1)
    root: str = Field(pattern=r"^[0-9a-f]{64}$")


class ReportClaims(_Claims):
    """The parts of report.json that evidence can contradict."""

    task: Literal["classification", "segmentation"]
    charter: str
    log: LogClaims
    rounds: int
    foundation_model_calls: int
    hospitals: list[HospitalClaims] = Field(min_length=1)


def read_claims(data: bytes) -> ReportClaims:
    """The claims in a report.json; raises BundleRefused for bad JSON or missing fields."""
    try:
        document = json.loads(
            data.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
    except (UnicodeDecodeError, ValueError, RecursionError, ArithmeticError) as error:
        raise BundleRefused("report/report.json is not plain JSON with distinct keys.") from error
    try:
        return ReportClaims.model_validate(document)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the document"
        raise BundleRefused(f"report/report.json does not have what it must at {where}.") from error


def check_report(
    files: BundleFiles,
    record: Record,
    *,
    rounds: Rounds,
    losses: Mapping[str, Losses],
    calls: int,
) -> ReportClaims:
    """Step 12: everything in report.json that evidence can contradict is recomputed from it.

    Federation, charter, task, log, rounds, calls, privacy terms, what the secure sum took, and
    every epsilon: it may be above the recomputed one, never below. What a report says beyond that
    must be in its form: a hospital's figures for its own models are that hospital's word.
    """
    layout.required(files, layout.REPORT_HTML)
    data = layout.required(files, layout.REPORT_JSON)
    claims = read_claims(data)
    charter = record.charter
    pairs = (
        ("charter", claims.charter, charter.digest),
        ("task", claims.task, charter.task),
        ("rounds", claims.rounds, len(rounds.summed)),
        ("foundation_model_calls", claims.foundation_model_calls, calls),
    )
    _compare(pairs)
    _check_log(claims.log, record, rounds)
    check_epsilons(claims.hospitals, charter, losses)
    report = _whole(data)
    cost = secure_sum_cost(charter, record.entries, record.objects)
    terms = privacy_terms(charter)
    _compare(
        [
            ("federation", report.federation, charter.federation),
            *(
                (f"privacy.{field}", getattr(report.privacy, field), getattr(terms, field))
                for field in type(terms).model_fields
            ),
            *(
                (f"secure_sum.{field}", getattr(report.secure_sum, field), getattr(cost, field))
                for field in type(cost).model_fields
            ),
        ]
    )
    return claims


def _compare(fields: Iterable[tuple[str, object, object]]) -> None:
    for field, claimed, proved in fields:
        if claimed != proved:
            raise BundleRefused(f"the report's {field} is not what the evidence proves: {proved}.")


def _whole(data: bytes) -> Report:
    try:
        return Report.model_validate_json(data)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the document"
        raise BundleRefused(f"report/report.json is not in a report's form at {where}.") from error


def _check_log(claims: LogClaims, record: Record, rounds: Rounds) -> None:
    tree = record.tree.hashes
    if claims.size > tree.size or tree.root(claims.size).hex() != claims.root:
        raise BundleRefused("the log that the report cites is not a beginning of this log.")
    if claims.size <= rounds.last_index:
        raise BundleRefused("the report cites the log of a time before its last round had ended.")


def check_epsilons(
    claims: list[HospitalClaims], charter: Charter, losses: Mapping[str, Losses]
) -> None:
    """Raises BundleRefused unless every hospital with a ledger is claimed once, and none below."""
    groups = {hospital.name: hospital.group for hospital in charter.hospitals}
    names = [claim.name for claim in claims]
    if len(set(names)) != len(names) or not losses.keys() <= set(names):
        raise BundleRefused("the report must list every hospital that has a ledger, each once.")
    for claim in claims:
        if groups.get(claim.name) != claim.group:
            raise BundleRefused("the report lists a hospital that is not so in the charter.")
        spent = losses.get(claim.name, Losses(Fraction(0), Fraction(0)))
        for field in ("epsilon_aggregate", "epsilon_collusion"):
            recomputed = _decimal(getattr(spent, field))
            if getattr(claim, field) < recomputed:
                raise BundleRefused(
                    f"the report's {field} of {claim.name} is below the {recomputed} recomputed "
                    "from its ledger."
                )


def _decimal(epsilon: Fraction) -> Decimal:
    # Exact: the accountant rounds up to six decimals. Decimals, as the exponent in a report may be
    # of any size, which a fraction would write out.
    return Decimal(int(epsilon * 10**6)).scaleb(-6)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is written twice")
    return document


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")
