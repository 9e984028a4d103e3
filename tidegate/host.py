"""The facts of this machine that a reader needs to compare figures."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def host_facts() -> dict[str, Any]:
    """Return what a reader needs to compare figures: processor, cores, memory, versions."""
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(pages / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def commit() -> str:
    """Return the short commit of the working directory, or `unknown` where there is none."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return found.stdout.strip() or "unknown"
