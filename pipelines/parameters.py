"""Parameters of one training run, and the digests that make a cached step valid for exactly one state of things."""

import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from components.behaviour import history_digest
from components.contract import read_contract
from components.home import Home
from components.ingest.rows import data_version, newest_truth
from components.policies import cut_off_of, read_policies
from components.snapshot.hard_kinds import emphasis_of
from ledger.ledger import Ledger, SqliteLedger
from moderation.errors import PermanentError, SettingsError
from moderation.golden import latest_golden
from moderation.profiles import profile_named
from moderation.release import STANDARD
from moderation.settings import Settings

_PACKAGES: Final = ("moderation", "ledger", "components", "pipelines")
"""What a pipeline step may import; a change elsewhere leaves cached steps valid."""

_SOURCES: Final = (".py", ".yaml", ".json", ".txt")

# The parameters of a step travel in one argument of a command line, where the kernel allows 128 KiB.
_MAX_FILE_BYTES: Final = 100_000


@dataclass(frozen=True)
class Choices:
    """What a person chooses for a run; the rest follows from the home folder and the code."""

    logical_date: str | None = None
    """Day of the run: it sees what was known by the start of this day, UTC. None: the day after the newest truth."""

    profile: str = "small"
    seed: int = 17
    num_trials: int = 12
    min_positives: int = 30
    """Violations per policy that must be known to train and to test on."""

    prior_study: str = "auto"
    """Study to start from; `auto` takes the newest one of an earlier logical date, empty takes none."""

    release_profile: str = STANDARD
    """Profile of the release contract: which gates that are not certified still block."""


@dataclass(frozen=True)
class Parameters:
    """The arguments of the training pipeline, by name."""

    logical_date: str
    data_version: str
    code_digest: str
    config_digest: str
    policies: str
    release_contract: str
    release_profile: str
    profile: str
    seed: int
    num_trials: int
    min_positives: int
    home: str
    study_url: str
    prior_study: str
    tracking_url: str
    git_commit: str

    def as_arguments(self) -> dict[str, Any]:
        """Return the pipeline's arguments."""
        return asdict(self)


def parameters(choices: Choices, settings: Settings) -> Parameters:
    """Return everything that a run of `choices` on this machine depends on.

    Raises:
        PermanentError: if a profile or the date is unknown, or the ledger is empty.
        PolicyError: if the policy file or the release contract does not load.
        DamagedExport: if hard examples of an earlier bundle cannot be read.
    """
    profile_named(choices.profile)
    home = Home(settings.home.resolve())
    policies = policy_text(settings.policy_file)
    ledger = _open_ledger(home)
    logical_date = choices.logical_date or day_after_newest_truth(ledger)
    cut_off = cut_off_of(logical_date)
    known = _with_emphasis(data_version(ledger, cut_off), home, cut_off)
    return Parameters(
        logical_date=logical_date,
        data_version=_with_golden(known + history_digest(home), home),
        config_digest=config_digest(choices, policies, settings.num_threads),
        home=str(home.folder),
        **_chosen(choices, policies, settings),
    )


def for_submission(choices: Choices, settings: Settings) -> Parameters:
    """Return the parameters of a run elsewhere: home and data version are the cluster's own.

    Raises:
        PermanentError: if a profile is unknown.
        PolicyError: if the policy file or the release contract does not load.
    """
    policies = policy_text(settings.policy_file)
    return Parameters(
        logical_date=choices.logical_date or "",
        data_version="",
        config_digest=config_digest(choices, policies, settings.num_threads),
        home="",
        **_chosen(choices, policies, settings),
    )


def code_digest() -> str:
    """Return a digest of every source file that a step may import, and of the locked versions."""
    return _digest_files(_source_files())


def config_digest(choices: Choices, policies: str, num_threads: int) -> str:
    """Return a digest of the profile, the policies and every choice that changes a result."""
    content = {
        "profile": profile_named(choices.profile).model_dump(mode="json"),
        "policies": hashlib.sha256(policies.encode()).hexdigest(),
        "seed": choices.seed,
        "num_trials": choices.num_trials,
        "num_threads": num_threads,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def git_commit() -> str:
    """Return the commit of the code; empty where it is no checkout."""
    root = _package_folder("pipelines").parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # a machine without git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _chosen(choices: Choices, policies: str, settings: Settings) -> dict[str, Any]:
    contract = contract_text(settings.release_file, choices.release_profile)
    check_profile(choices.release_profile, settings)
    if len((policies + contract).encode()) > _MAX_FILE_BYTES:
        raise SettingsError(
            f"{settings.policy_file} and {settings.release_file} are together larger than {_MAX_FILE_BYTES} bytes"
        )
    return {
        "code_digest": code_digest(),
        "policies": policies,
        "release_contract": contract,
        "release_profile": choices.release_profile,
        "profile": choices.profile,
        "seed": choices.seed,
        "num_trials": choices.num_trials,
        "min_positives": choices.min_positives,
        "study_url": settings.study_url or "",
        "prior_study": choices.prior_study,
        "tracking_url": settings.tracking_url or "",
        "git_commit": git_commit(),
    }


def policy_text(path: Path) -> str:
    """Return the text of a policy file that loads.

    Raises:
        SettingsError: if it cannot be read or is too long.
        PolicyError: if it does not load.
    """
    text = _read_text(path, "policy file", "TIDEGATE__POLICY_FILE")
    read_policies(text, str(path))
    return text


def contract_text(path: Path, profile: str = STANDARD) -> str:
    """Return the text of a release contract that loads and has `profile`.

    Raises:
        SettingsError: if it cannot be read, is too long, or has no such profile.
        PolicyError: if it does not load.
    """
    text = _read_text(path, "release contract", "TIDEGATE__RELEASE_FILE")
    profiles = sorted(read_contract(text, str(path)).profiles)
    if profile not in profiles:
        raise SettingsError(f"{path} has no profile {profile}; it has {profiles}")
    return text


def check_profile(profile: str, settings: Settings) -> None:
    """Refuse a run under a profile whose pass would give no name: found out before the minutes that it takes.

    Raises:
        SettingsError: naming the variable.
    """
    if profile not in (STANDARD, settings.release_profile):
        raise SettingsError(
            f"a pass under the profile {profile} does not count in this home, which accepts "
            f"{settings.release_profile}; run under that one, or set TIDEGATE__RELEASE_PROFILE={profile}"
        )


def _read_text(path: Path, what: str, variable: str) -> str:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{what} {path}: {error}; set {variable}") from error
    if len(text.encode()) > _MAX_FILE_BYTES:
        raise SettingsError(f"{what} {path} is larger than {_MAX_FILE_BYTES} bytes")
    return text


def _with_golden(data: str, home: Home) -> str:
    """Return a data version that changes with the golden set: its rows stay out of the snapshot, and judge it."""
    golden = latest_golden(home.golden)
    if golden is None:
        return data
    return hashlib.sha256(f"{data}\x1f{golden.digest}".encode()).hexdigest()


def _with_emphasis(data: str, home: Home, cut_off: datetime) -> str:
    """Return a data version that changes with the hard examples of earlier bundles, whose kinds train more."""
    emphasis = emphasis_of(home, cut_off)
    if not emphasis.digest:
        return data
    return hashlib.sha256(f"{data}\x1f{emphasis.digest}".encode()).hexdigest()


def _open_ledger(home: Home) -> SqliteLedger:
    if not home.ledger.is_file():
        raise PermanentError(
            f"{home.folder} holds no ledger; run `tidegate simulate` or `tidegate import` first"
        )
    return SqliteLedger(home.ledger)


def day_after_newest_truth(ledger: Ledger) -> str:
    """Return the first day that sees all truth: what a run takes that names none.

    Raises:
        PermanentError: if there is no truth.
    """
    newest = newest_truth(ledger)
    if newest is None:
        raise PermanentError(
            "the ledger holds no truth; run `tidegate simulate` or `tidegate import`"
        )
    return (newest.date() + timedelta(days=1)).isoformat()


def _source_files() -> list[tuple[str, Path]]:
    files = []
    for package in _PACKAGES:
        folder = _package_folder(package)
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SOURCES and "__pycache__" not in path.parts:
                files.append((f"{package}/{path.relative_to(folder).as_posix()}", path))
    lock = _package_folder("pipelines").parent / "requirements.lock"
    return [*files, *([("requirements.lock", lock)] if lock.is_file() else [])]


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _digest_files(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\x1f{hashlib.sha256(path.read_bytes()).hexdigest()}\x1e".encode())
    return digest.hexdigest()
