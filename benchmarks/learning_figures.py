"""Draw the figures of ``fedhelp bench learning`` and write them as tables for a document.

    python benchmarks/learning_figures.py benchmarks/results/learning-classification.json

For each committed result: a picture beside it (SVG: gain in the first figure over the stronger
alone, or over the whole method, with the deviation over seeds), and its tables on the screen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_COLOURS = {"small": "#1f5f8b", "large": "#a4762f"}


def named(score: dict[str, Any]) -> str:
    """A method with its budget."""
    return f"{score['method']}, epsilon {score['epsilon']}" if score["epsilon"] else score["method"]


def draw(document: dict[str, Any], path: Path) -> None:
    """Bars of gains with the deviation over seeds, one panel a group."""
    result = document["result"]
    groups = list(dict.fromkeys(score["group"] for score in result["scores"]))
    rows = max(sum(score["group"] == group for score in result["scores"]) for group in groups)
    figure = Figure(figsize=(11, 1.2 + 0.26 * rows), layout="constrained")
    for panel, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        scores = [score for score in result["scores"] if score["group"] == group][::-1]
        panel.barh(
            [named(score) for score in scores],
            [score["gain"]["mean"] for score in scores],
            xerr=[score["gain"]["deviation"] for score in scores],
            color=_COLOURS[group],
            ecolor="#5b6f7a",
            height=0.7,
        )
        panel.axvline(0, color="#1b2a33", linewidth=0.8)
        panel.tick_params(axis="y", labelsize=7)
        first = next(iter(scores[0]["figures"]))
        over = "the whole method" if result["ablation"] else "the stronger alone"
        panel.set_xlabel(f"{group} hospitals: {first} over {over}", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    seeds = len(result["seeds"])
    figure.suptitle(
        f"{result['task']}, {seeds} seeds, {document['date']}, {document['commit']}, "
        f"{document['machine']}",
        fontsize=8,
    )
    with matplotlib.rc_context({"svg.hashsalt": "fedhelp", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def tables(document: dict[str, Any]) -> str:
    """Markdown: mean (deviation over seeds)."""
    result = document["result"]
    parts = []
    for group in dict.fromkeys(score["group"] for score in result["scores"]):
        scores = [score for score in result["scores"] if score["group"] == group]
        names = list(scores[0]["figures"])
        hospitals = sum(name.startswith(group) for name in result["measured"])
        lines = [
            "| "
            + " | ".join(
                [f"{group} hospitals ({hospitals})", "epsilon", "bytes sent", *names, "difference"]
            )
            + " |",
            "|" + "---|" * (len(names) + 4),
        ]
        lines += [_row(score, names) for score in scores]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(score: dict[str, Any], names: list[str]) -> str:
    cells = [
        score["method"],
        score["epsilon"] or "",
        f"{score['bytes_sent']:,}" if score["bytes_sent"] else "",
        *(_spread(score["figures"][name]) for name in names),
        _spread(score["gain"], sign="+"),
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(spread: dict[str, Any], *, sign: str = "") -> str:
    digits = 1 if abs(spread["mean"]) >= 10 else 3
    return f"{spread['mean']:{sign}.{digits}f} ({spread['deviation']:.{digits}f})"


def main() -> None:
    """Every file that is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    for path in parser.parse_args().results:
        document = json.loads(path.read_bytes())
        draw(document, path.with_suffix(".svg"))
        print(f"{path.with_suffix('.svg')}\n\n{tables(document)}\n")


if __name__ == "__main__":
    main()
