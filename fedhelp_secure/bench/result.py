"""Figures with their spread, as JSON and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedhelp_secure.bench.components import ComponentCost


@dataclass(frozen=True, slots=True)
class RoundCost:
    """One round of one scheme, over the network."""

    seconds: float
    bytes_on_the_wire: int
    """Of all legs together."""
    upload_bytes: int
    """Of one hospital."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One scheme: a component cost and a round cost for every repeat."""

    components: tuple[ComponentCost, ...]
    rounds: tuple[RoundCost, ...]
    peak_rss_mb: dict[str, float]
    """By process; the largest of all hospitals under ``hospital``."""

    def document(self, *, values: int, hospitals: int) -> dict[str, Any]:
        """As the JSON has it: medians, and least and largest under ``spread``."""
        series = {
            name: figures for name, figures in self._series(values, hospitals).items() if figures
        }
        return {
            **{name: round(statistics.median(figures), 6) for name, figures in series.items()},
            "spread": {
                name: [round(min(figures), 6), round(max(figures), 6)]
                for name, figures in series.items()
            },
            "peak_rss_mb": {name: round(peak, 1) for name, peak in self.peak_rss_mb.items()},
        }

    def _series(self, values: int, hospitals: int) -> dict[str, list[float]]:
        contributed = values * hospitals
        return {
            "bytes_per_value": [cost.bytes_on_the_wire / contributed for cost in self.rounds],
            "upload_bytes_per_value": [cost.upload_bytes / values for cost in self.rounds],
            "encrypt_us_per_value": [cost.encrypt for cost in self.components],
            "prepare_us_per_value": [cost.prepare for cost in self.components],
            "aggregate_us_per_value": [cost.aggregate for cost in self.components],
            "open_us_per_value": [cost.open for cost in self.components],
            "round_seconds": [cost.seconds for cost in self.rounds],
        }


def ratios(ours: Measured, other: Measured) -> dict[str, Any]:
    """Ours over the other's, repeat by repeat: median, least and largest."""
    pairs = list(zip(ours.components, other.components, strict=True))
    rounds = list(zip(ours.rounds, other.rounds, strict=True))
    return {
        "encrypt_aggregate_open": _spread(mine.total / theirs.total for mine, theirs in pairs),
        "aggregate": _spread(mine.aggregate / theirs.aggregate for mine, theirs in pairs),
        "round": _spread(mine.seconds / theirs.seconds for mine, theirs in rounds),
    }


def _spread(figures: Iterable[float]) -> dict[str, float]:
    known: Sequence[float] = list(figures)
    return {
        "median": round(statistics.median(known), 4),
        "least": round(min(known), 4),
        "largest": round(max(known), 4),
    }
