from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedhelp_secure.provenance import UNKNOWN, source_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"url": "https://example.org/r", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, COMMIT),
        ({"url": "https://example.org/r", "vcs_info": {"commit_id": "main"}}, UNKNOWN),
        ({"url": "https://example.org/r", "vcs_info": {"commit_id": 7}}, UNKNOWN),
        ({"url": "file:///here", "dir_info": {"editable": True}}, UNKNOWN),
        ([], UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_the_commit_is_what_the_installation_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: object, expected: str
) -> None:
    """As pip leaves it: a distribution's metadata on the path of modules."""
    metadata = tmp_path / "installed_somehow-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-somehow\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)
    assert source_commit("installed-somehow") == expected


def test_what_is_not_installed_has_no_commit() -> None:
    assert source_commit("nobody-has-installed-this") == UNKNOWN
