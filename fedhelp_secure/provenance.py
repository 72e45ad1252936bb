"""Which source is installed, as far as the installation itself knows."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, distribution

UNKNOWN = "unknown"


def source_commit(name: str = "fedhelp-secure") -> str:
    """The git commit that the distribution ``name`` was installed from, or `UNKNOWN`.

    pip records it (PEP 610, ``direct_url.json``) when it installs from a repository; a wheel from
    an index or an editable installation has none. No environment variable is asked: it could say
    anything.
    """
    try:
        text = distribution(name).read_text("direct_url.json")
        commit = json.loads(text or "{}")["vcs_info"]["commit_id"]
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return UNKNOWN
    return commit if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit) else UNKNOWN
