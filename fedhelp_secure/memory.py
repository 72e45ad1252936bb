"""How much memory a process has had: Linux's ``VmHWM``.

Not ``resource.getrusage``: a process starts with the peak of the one that started it.
"""

from __future__ import annotations

import os
from pathlib import Path


def peak_rss_mb(process_id: int | None = None) -> float:
    """The largest resident memory of a running process and its children, in MiB; default: this."""
    main = os.getpid() if process_id is None else process_id
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return sum(_own_peak(each) for each in (str(main), *children))


def _own_peak(process: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
