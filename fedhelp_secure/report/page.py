"""Whether a bundle's page says what its report.json says, which alone the verifier recomputes."""

from __future__ import annotations

from pathlib import Path

from fedhelp_secure.evidence import layout
from fedhelp_secure.report.model import Report


def page_warning(directory: Path) -> str | None:
    """What a reader of the verified bundle's report.html must know; None if it may be believed.

    A warning and no failure: another version of this software may draw another page.
    """
    try:
        from fedhelp_secure.report.html import render
    except ModuleNotFoundError:
        return (
            "report.html was not compared with the verified report.json; install "
            "'fedhelp-secure[report]' to have it compared, or read report.json."
        )
    report = Report.model_validate_json((directory / layout.REPORT_JSON).read_bytes())
    if render(report).encode() == (directory / layout.REPORT_HTML).read_bytes():
        return None
    return (
        "report.html is not the page that this version makes of report.json, and only report.json "
        "was verified: believe that, or what 'fedhelp report' makes of this bundle."
    )
