"""How much memory a process has had: Linux's ``VmHWM``.

Not ``resource.getrusage``: a process starts with the peak of the one that started it.
"""

from __future__ import annotations

from pathlib import Path


def own_peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return _peak("self")


def peak_rss_mb_of(process_id: int) -> float:
    """The same of a running process."""
    return _peak(str(process_id))


def _peak(process: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
