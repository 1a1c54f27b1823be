"""Memory use of this process."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_mib() -> float:
    """Return the peak memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage includes the process that started this one
        kib = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    else:
        kib = str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return int(kib) / 1024
