"""A short run of benchmarks/fuzz_secure_sum.py; its long run takes 100,000 mutations."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
from support.federation import make_federation
from support.fuzzing import Finding, Round, Target, decrypt_random_frames, fuzz, mutate_bytes

from fedhelp_secure.canonical import canonical_json, parse_json
from fedhelp_secure.errors import MalformedMessage

CORPUS = Path(__file__).with_name("corpus")


@pytest.fixture(scope="module")
def honest_round(tmp_path_factory: pytest.TempPathFactory) -> Round:
    root = tmp_path_factory.mktemp("fuzz")
    return Round(make_federation(root / "federation", unmaskers=2), root, CORPUS)


def test_mutations_are_refused_with_errors_of_ours_and_change_no_sum(honest_round: Round) -> None:
    targets = honest_round.targets()
    results = fuzz(targets, 500, seed=1)
    assert results.total() == 500
    assert {target for target, _ in results} == {target.name for target in targets}
    codes = {code for _, code in results}
    assert {"DecodeError", "malformed", "manifest", "signature", "seal", "sum-forged"} <= codes


def test_the_honest_messages_and_only_they_are_accepted(honest_round: Round) -> None:
    for target in honest_round.targets():
        target.take(target.seeds[0])
    whole = {file.name for file in CORPUS.iterdir()}
    assert len(whole) > 30
    assert not any(name.endswith((".pem", ".key", ".npz")) for name in whole)


def test_every_file_of_the_corpus_goes_to_every_target(honest_round: Round) -> None:
    for target in honest_round.targets():
        if len(target.seeds) < len(list(CORPUS.iterdir())):
            continue
        for seed in target.seeds:
            fuzz([Target(target.name, (seed,), target.take, lambda _, data: data, 1)], 1, seed=0)


def test_anything_else_is_a_finding() -> None:
    def broken(data: bytes) -> None:
        raise KeyError("no error of ours")

    with pytest.raises(Finding, match="KeyError"):
        fuzz([Target("broken", (b"seed",), broken, mutate_bytes, 1)], 1, seed=0)


@pytest.mark.parametrize(
    "document",
    [
        b'{"\\ud800": 1}',
        b'{"a": {"\\udfff": 1}}',
        b'{"a": [{"\\ud800": 1, "b": 2}]}',
        b'{"a": "\\ud800"}',
    ],
)
def test_a_lone_surrogate_is_malformed(document: bytes) -> None:
    with pytest.raises(MalformedMessage):
        canonical_json(parse_json(document, "a document"))


def test_a_document_that_is_nested_too_deeply_is_malformed() -> None:
    """Of a depth at which Python's own parser would give up too."""
    nested: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit()):
        nested = {"a": nested}
    with pytest.raises(MalformedMessage):
        canonical_json(nested)


def test_frames_of_random_residues_do_not_end_the_process_that_decrypts_them(
    tmp_path: Path,
) -> None:
    federation = make_federation(tmp_path, large=1, small=1)
    state = federation.state("decryptor")
    secret = state.read(state.role_directory() / "context.secret")
    parameters = federation.charter.secure_sum.model_dump_json()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results = pool.apply_async(decrypt_random_frames, (secret, parameters, 50, 1)).get(120)
    assert results == {"not-an-integer": 50}
