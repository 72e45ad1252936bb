"""Run the demo over several seeds and print what each group gained, with the spread.

    python benchmarks/demo_seeds.py --data ../shared/data/busi --dataset busi --seeds 3

Every seed is a whole federation (split, models, fresh noise and keys). Figures are the mean over a
seed's hospitals of a group; then mean, minimum and maximum over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def run_seed(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """One demo; its JSON. Raises CalledProcessError if it failed."""
    result = folder / f"{seed}.json"
    command = [sys.executable, "-m", "fedhelp_secure", "demo", "--dataset", arguments.dataset]
    command += ["--task", arguments.task, "--epsilon", arguments.epsilon, "--seed", str(seed)]
    command += ["--rounds", str(arguments.rounds)]
    if arguments.data is not None:
        command += ["--data", str(arguments.data)]
    command += ["--out", str(folder / f"seed-{seed}"), "--json", str(result)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    document: dict[str, Any] = json.loads(result.read_text())
    return document


def group_means(result: dict[str, Any], group: str) -> tuple[float, float]:
    """Mean over one group's hospitals, alone and distilled."""
    members = [hospital for hospital in result["hospitals"] if hospital["group"] == group]
    return (
        statistics.mean(hospital["alone"] for hospital in members),
        statistics.mean(hospital["distilled"] for hospital in members),
    )


def spread(values: list[float]) -> str:
    """Mean, and the least and the largest."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--task", default="classification")
    parser.add_argument("--epsilon", default="3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [run_seed(arguments, seed, Path(folder)) for seed in range(arguments.seeds)]
    print(f"{arguments.task}, {arguments.dataset}, epsilon {arguments.epsilon}, by seed:")
    for result in results:
        shown = "  ".join(
            f"{hospital['name']} {hospital['alone']:.3f}>{hospital['distilled']:.3f}"
            for hospital in result["hospitals"]
        )
        print(f"  seed {result['seed']}: {shown}  ({result['seconds']:.0f} s)")
    for group in ("small", "large"):
        pairs = [group_means(result, group) for result in results]
        print(
            f"{group}: alone {spread([alone for alone, _ in pairs])}, "
            f"distilled {spread([distilled for _, distilled in pairs])}, "
            f"gain {spread([distilled - alone for alone, distilled in pairs])}"
        )
    print(f"evidence verified: {all(result['evidence_verified'] for result in results)}")
    print(f"seconds: {spread([result['seconds'] for result in results])}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
