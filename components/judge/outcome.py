"""What the gates made of one candidate: what the pipeline, the registry and a person go on with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moderation.errors import PermanentError

State = Literal["proposed", "blocked"]


@dataclass(frozen=True)
class Outcome:
    """The end of one run of the gates."""

    state: State
    bundle: str
    """Digest of the candidate."""

    champion: str | None
    """Digest of the bundle that it was compared with; None: a first release, judged by absolute gates."""

    attestation: str
    """Digest of the statement beside the kept bundle."""

    contract: str
    """Digest of the contract."""

    profile: str
    reasons: tuple[str, ...]
    """Why it is blocked, one gate each; empty if proposed."""

    caps: dict[str, str]
    """Policy -> weakest tier that stays closed, and every stronger one."""

    notes: tuple[str, ...]
    """What a reader must know: no champion, the profile, what was not taken."""

    def save(self, path: str) -> None:
        """Write the outcome as JSON."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(asdict(self), indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str) -> "Outcome":
        """Return what `save` wrote.

        Raises:
            PermanentError: if it is not there or damaged.
        """
        try:
            content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            content |= {name: tuple(content[name]) for name in ("reasons", "notes")}
            return cls(**content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PermanentError(
                f"{path}: no readable outcome of the gates ({error!r}); judge the bundle again"
            ) from error
