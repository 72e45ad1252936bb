"""Step 13: who cosigned this history, and that there is no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.evidence import Story

from fedhelp_secure.evidence.checkpoint import Checkpoint, sign_checkpoint
from fedhelp_secure.evidence.cosignature import witnesses
from fedhelp_secure.evidence.entries import serialise_entry
from fedhelp_secure.evidence.log import log_origin
from fedhelp_secure.evidence.merkle import MerkleTree
from fedhelp_secure.evidence.verify import StepFailed, verify_bundle
from fedhelp_secure.evidence.verify_witnesses import exclusive_quorum
from fedhelp_secure.transport.identity import Role


def head_of(story: Story, size: int, *, changed: int | None = None) -> bytes:
    """A checkpoint of the story's log at ``size``, entry ``changed`` being another one."""
    leaves = [serialise_entry(entry) for entry in story.entries]
    if changed is not None:
        leaves[changed] = b"another history"
    head = Checkpoint(log_origin(story.charter), size, MerkleTree(leaves[:size]).root())
    return sign_checkpoint(head, story.federation.state(Role.AGGREGATOR).signing_key())


def everybody(story: Story, note: bytes, *, but: int = 0, after: int = 100) -> None:
    """All witnesses have cosigned ``note``, except for the first ``but`` hospitals."""
    story.cosigned = {
        witness: story.cosigned_by(witness, note, after=after)
        for number, witness in enumerate(witnesses(story.charter))
        if number >= but
    }


def failure(story: Story, out: Path) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        verify_bundle(story.write(out))
    assert (caught.value.number, caught.value.title) == (13, "witnesses")
    return caught.value


def test_a_quorum_is_such_that_two_share_more_than_may_collude(story: Story) -> None:
    hospitals, colluders = len(story.charter.hospitals), story.charter.cohort.colluders
    quorum = exclusive_quorum(story.charter)
    assert 2 * quorum - hospitals > colluders
    assert quorum == hospitals or 2 * (quorum - 1) - hospitals <= colluders


def test_all_cosigned(story: Story, tmp_path: Path) -> None:
    key = story.federation.governance_key.public
    verdict = verify_bundle(story.write(tmp_path / "bundle"), governance_key=key)
    hospitals = len(story.charter.hospitals)
    assert f"{hospitals} of {hospitals} hospitals and 1 auditors" in verdict.steps[12].finding
    assert verdict.warnings == ()


def test_few_are_a_warning_and_too_few_a_failure(story: Story, tmp_path: Path) -> None:
    key, last = story.federation.governance_key.public, len(story.entries)
    hospitals, colluders = len(story.charter.hospitals), story.charter.cohort.colluders
    for missing in range(hospitals + 1):
        told = story.copy()
        everybody(told, head_of(told, last), but=missing)
        left = hospitals - missing
        if left <= colluders:
            assert f"{left} hospitals cosigned" in str(failure(told, tmp_path / str(missing)))
            continue
        verdict = verify_bundle(told.write(tmp_path / str(missing)), governance_key=key)
        warned = any("may have been shown another" in warning for warning in verdict.warnings)
        assert warned == (left < exclusive_quorum(story.charter))


def test_only_a_tree_with_the_last_opened_round_counts(story: Story, tmp_path: Path) -> None:
    opened = max(
        index for index, entry in enumerate(story.entries) if entry.HasField("round_summed")
    )
    told = story.copy()
    everybody(told, head_of(told, opened))
    assert "0 hospitals cosigned" in str(failure(told, tmp_path / "before"))
    told = story.copy()
    everybody(told, head_of(told, opened + 1))
    verify_bundle(told.write(tmp_path / "with"))


@pytest.mark.parametrize("changed", [0, 3, -1])
def test_one_who_saw_another_history_is_enough(story: Story, tmp_path: Path, changed: int) -> None:
    told = story.copy()
    everybody(told, head_of(told, len(told.entries)))
    assert told.cosigned is not None
    witness = next(iter(told.cosigned))
    note = head_of(told, len(told.entries), changed=changed)
    told.cosigned[witness] = told.cosigned_by(witness, note)
    assert "two histories" in str(failure(told, tmp_path / "bundle"))


def test_one_who_saw_more_than_the_log_has(story: Story, tmp_path: Path) -> None:
    told = story.copy()
    everybody(told, head_of(told, len(told.entries)))
    assert told.cosigned is not None
    longer = told.copy()
    longer.add(longer.entries[-1])
    witness = next(iter(told.cosigned))
    note = head_of(longer, len(longer.entries))
    told.cosigned[witness] = told.cosigned_by(witness, note)
    assert "two histories" in str(failure(told, tmp_path / "bundle"))


def test_nobody_cosigns_before_it_happened(story: Story, tmp_path: Path) -> None:
    told = story.copy()
    everybody(told, head_of(told, len(told.entries)), after=-298)
    verify_bundle(told.write(tmp_path / "slow"))
    told = story.copy()
    everybody(told, head_of(told, len(told.entries)), after=-301)
    assert "before they were made" in str(failure(told, tmp_path / "early"))
