"""Entry of the `tidegate` command: what went wrong is one clear line, never a traceback of ours."""

import signal
import sys

from moderation.errors import TemporaryError, TidegateError

# The shell's convention for a process that a signal ended.
_TERMINATED = 128 + signal.SIGTERM

# Exit code of an error that the message explains; 1 is left to what nobody expected.
_REFUSED = 2


def main() -> None:
    """Run one command."""
    # A terminated command unwinds, so that the processes that it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    from tidegate.app import app

    try:
        app()
    except TidegateError as error:
        from tidegate.console import show_error

        show_error(str(error), is_temporary=isinstance(error, TemporaryError))
        sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
