"""What a command asks before a bundle may answer: which bundle is meant, by which contract, what is attested."""

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

from components.home import Home
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from moderation.release import ReleaseContract
from moderation.settings import Settings

if TYPE_CHECKING:
    from components.registry import Registry
    from moderation.attestation import Attestation

CHAMPION: Final = "champion"
CANDIDATE: Final = "candidate"


def registry_of(config: Settings) -> "Registry":
    """Return the registry of this home."""
    from components.registry import Registry  # mlflow takes seconds to import

    home = Home(config.home)
    return Registry(
        config.tracking_url or home.tracking_url,
        bundles=home.bundles,
        artifacts=home.artifacts,
        accepts=config.release_profile,
    )


def contract_of(config: Settings) -> ReleaseContract:
    """Return the release contract in force.

    Raises:
        PolicyError: naming the file and the line that is wrong.
    """
    from components.contract import load_contract  # measures import scipy

    return load_contract(config.release_file)


def named_bundle(name: str, config: Settings) -> Bundle:
    """Return the bundle that a person means: `champion`, `candidate`, a folder, or the start of a digest.

    Raises:
        PermanentError: if there is none, or more than one.
        BundleRejected: if it was altered.
    """
    if name in (CHAMPION, CANDIDATE):
        return registry_of(config).resolve(cast(Literal["champion", "candidate"], name))
    if Path(name).is_dir():
        return Bundle.open(Path(name))
    folder = Home(config.home).bundles
    found = sorted(folder.glob(f"{name}*")) if name.isalnum() else []
    if len(found) != 1:
        many = f"{len(found)} bundles begin so" if found else f"{folder} holds none of that name"
        raise PermanentError(
            f"{name}: {many}; give champion, candidate, the folder of a bundle or the start of its digest"
        )
    return Bundle.open(found[0])


def kept_bundle(bundle: Bundle, home: Home) -> Bundle:
    """Return the copy of a bundle that carries the record: the one below home, else itself."""
    folder = home.bundles / bundle.digest
    return Bundle.open(folder) if folder.is_dir() else bundle


def check_release(bundle: Bundle, config: Settings) -> "Attestation":
    """Return the attestation that lets a bundle answer requests in this home.

    Raises:
        GateRejected: if none passes under the contract in force; the message says what to run.
        BundleRejected: if the record was altered.
    """
    return registry_of(config).check_release(bundle, contract_of(config).digest)
