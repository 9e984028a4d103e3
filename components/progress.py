"""How a step tells how far it is: one line on standard output that whoever runs the pipeline may show."""

import sys


def show_progress(done: int, total: int, note: str = "") -> None:
    """Write one progress line."""
    sys.stdout.write(f"@progress {done}/{total} {note}".rstrip() + "\n")
    sys.stdout.flush()
