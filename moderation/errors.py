"""Errors of the domain, classified by what the caller should do: retry, or mend and call again."""

from pathlib import Path


class TidegateError(Exception):
    """Anything that Tidegate itself raises; catch one of its subclasses instead.

    Args:
        message: what is wrong and what to do.
        file: that it is about; named in the text of the error, not in what callers of a server are told.
    """

    def __init__(self, message: str, *, file: Path | None = None) -> None:
        super().__init__(message if file is None else f"{file}: {message}")
        self.told = message
        """For whoever is not to know where files lie."""


class TemporaryError(TidegateError):
    """It may work later; retry after `delay_s` seconds, with a cap."""

    def __init__(self, message: str, *, delay_s: float = 1.0, file: Path | None = None) -> None:
        super().__init__(message, file=file)
        self.delay_s = delay_s


class PermanentError(TidegateError):
    """Retrying is useless; the input or the set-up must change first."""


class SettingsError(PermanentError):
    """A setting is misspelt, out of range or missing; the message names it."""


class PolicyError(PermanentError):
    """A policy file does not load; the message names the file and the field."""


class PatternError(PermanentError):
    """A pattern file does not load; the message names the line and the pattern, and says what is wrong with it."""


class InvalidListing(PermanentError):
    """A listing breaks a limit; correct `field` and submit again (HTTP 400)."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidSnapshot(PermanentError):
    """A training table cannot serve its purpose; the message says which rows are missing or wrong."""


class BankRejected(PermanentError):
    """A bank's entries, version or state is wrong or damaged; what was active stays, the message says what to do."""


class BundleRejected(PermanentError):
    """A bundle is altered, incomplete or of another format; build it again, never repair it in place."""


class GateRejected(PermanentError):
    """The evidence says no; the message lists the gates that blocked."""


class ModelNotReady(TemporaryError):
    """No model can answer yet; retry after `delay_s` (HTTP 503)."""


class FeatureStoreUnavailable(TemporaryError):
    """Behaviour features could not be read; the decision goes on without them and says so."""
