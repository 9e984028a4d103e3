import os
import subprocess
import sys

from tidegate.usage import PeakMemory, resident_bytes

_MIB = 2**20


def test_peak_counts_child_processes() -> None:
    grow = "data = bytearray(120 << 20); import time; time.sleep(1.2)"
    before = resident_bytes(os.getpid())
    with PeakMemory() as memory:
        subprocess.run([sys.executable, "-c", grow], check=True)
    assert memory.peak_bytes - before > 100 * _MIB


def test_resident_bytes_of_nobody_is_nothing() -> None:
    assert resident_bytes(2**22 + 7) == 0
