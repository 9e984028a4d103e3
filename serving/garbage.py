"""Python's garbage collector in a server: what was loaded at the start is not looked through again while it answers."""

import gc


def freeze_loaded() -> None:
    """Leave all that lives now out of every later collection; call it once, when everything is loaded.

    A collection of the oldest generation visits every object of the process and holds up all its threads: with the
    modules of a server that is a tenth of a second, which everybody waits for who is being answered then.

    Source:
        `gc.freeze` in Python's documentation.
    """
    gc.collect()
    gc.freeze()
