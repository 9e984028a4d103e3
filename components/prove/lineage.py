"""Until when a bundle's training could see truth: recorded when it is proved, read when it is the champion."""

import json
from datetime import datetime
from typing import Final

from components.home import Home
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from moderation.snapshot import Snapshot

_FILE: Final = "cut_off.json"


def record_cut_off(home: Home, bundle: Bundle, snapshot: Snapshot) -> None:
    """Keep the cut-off of a bundle's own snapshot beside its reports.

    Raises:
        PermanentError: if the bundle was trained on another snapshot.
    """
    trained_on = bundle.manifest.inputs.snapshot
    if trained_on != snapshot.digest:
        raise PermanentError(
            f"bundle {bundle.digest[:12]} was trained on snapshot {trained_on[:12]}, not on {snapshot.digest[:12]}: "
            "prove it with the snapshot that it was trained on"
        )
    folder = home.reports / bundle.digest
    folder.mkdir(parents=True, exist_ok=True)
    content = {"snapshot": snapshot.digest, "cut_off": snapshot.cut_off.isoformat()}
    (folder / _FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")


def cut_off_of(home: Home, bundle: Bundle) -> datetime:
    """Return the cut-off of a bundle that was proved in this home.

    Raises:
        PermanentError: if it is unknown, or recorded for another snapshot.
    """
    known, trained_on = recorded(home, bundle.digest)
    if trained_on != bundle.manifest.inputs.snapshot:
        raise PermanentError(
            f"the cut-off recorded for bundle {bundle.digest[:12]} is of another snapshot; prove it again"
        )
    return known


def recorded(home: Home, bundle: str) -> tuple[datetime, str]:
    """Return the cut-off and the digest of the snapshot that a bundle, named by its digest, was trained on.

    Raises:
        PermanentError: if they are unknown.
    """
    path = home.reports / bundle / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = datetime.fromisoformat(content["cut_off"])
        return known, str(content["snapshot"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PermanentError(
            f"until when bundle {bundle[:12]} saw truth is unknown here (no readable {path.name}); "
            "prove it once in this home with its own snapshot"
        ) from error
