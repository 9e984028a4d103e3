"""The model registry: every bundle with its lineage, metrics, verdicts and report, and the names that release it.

MLflow keeps the records; the bundle itself stays in its content-addressed folder and is referred to by digest, so a
registry that was edited cannot hand out other bytes. Every bundle is recorded, blocked or not; the names `candidate`
and `champion` go only to one whose newest attestation passes under the contract in force, and that was compared with
what it has to beat: the champion of today, or nothing where there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from components.judge.outcome import Outcome
from components.tracking import EXPERIMENT, SHOWN, Facts, Tracking, show
from moderation.attestation import Attestation, require_passing
from moderation.bundle import Bundle, store
from moderation.clock import Clock, SystemClock
from moderation.errors import GateRejected, PermanentError
from moderation.release import STANDARD

MODEL: Final = EXPERIMENT
"""Name of the registered model."""

Alias = Literal["champion", "candidate"]

_DIGEST_TAG: Final = "bundle_digest"
_FOLDER_TAG: Final = "bundle_folder"
_COMPARED_TAG: Final = "compared_with"
_CHAMPION_TAG: Final = "was_champion"
_STATE_TAG: Final = "gates"
_ATTESTATION_TAG: Final = "gates_attestation"
_MAX_REASON_CHARS: Final = 4_000
"""MLflow takes 5,000 characters in a version's tag; the pack has the rest."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered bundle."""

    version: int
    digest: str
    folder: Path
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def state(self) -> str:
        """`proposed` or `blocked`; empty if the gates never judged it."""
        return self.tags.get(_STATE_TAG, "")


class Registry:
    """The registry behind one tracking URL."""

    def __init__(
        self,
        tracking_url: str,
        *,
        bundles: Path,
        artifacts: Path,
        accepts: str = STANDARD,
        clock: Clock | None = None,
    ) -> None:
        """Connect; nothing is read yet.

        Args:
            tracking_url: `sqlite:///<path>` or the URL of an MLflow server.
            bundles: content-addressed folder of bundles.
            artifacts: where reports go when `tracking_url` is SQLite; a server has its own store.
            accepts: weakest profile of the contract whose pass gives a name or traffic.
            clock: gives the time of metrics.
        """
        self._tracking = Tracking(tracking_url)
        self._client = self._tracking.client
        self._bundles, self._artifacts = bundles, artifacts
        self._accepts = accepts
        self._clock = clock or SystemClock()

    def register(
        self,
        bundle: Bundle,
        outcome: Outcome,
        *,
        metrics: Mapping[str, float | None],
        lineage: Mapping[str, str | None],
        reports: Sequence[Path] = (),
    ) -> ModelVersion:
        """Return the version of `bundle`: if it is proposed a candidate, the first one champion; if blocked neither.

        Registering the same bundle again gives the version that it has.

        Args:
            bundle: copied into the content-addressed folder if it is not there.
            outcome: what the gates made of it.
            metrics: numbers of its evaluation; None is left out.
            lineage: what made it: `snapshot`, `code`, `git_commit`, `study`, ...; the parent bundle is added.
            reports: files and folders to show beside it, such as the HTML report and the evidence pack.

        Raises:
            PermanentError: if lineage or outcome contradict the bundle, or the registry refuses.
            GateRejected: if it is proposed, but what is attested beside it does not let it be released.
            TemporaryError: if the registry cannot be reached.
        """
        _check_lineage(bundle, lineage)
        kept = store(bundle, self._bundles)
        with self._client() as client:
            number = self._version_of(client, bundle.digest)
            if number is None:
                number = self._create(client, kept, metrics, lineage, reports)
            return self._settle(client, number, kept, outcome)

    def settle(self, outcome: Outcome, reports: Sequence[Path] = ()) -> ModelVersion | None:
        """Record a new outcome for a registered bundle, with its aliases; None if it is not registered.

        A champion that is blocked keeps its name: taking it away is a decision. It can no longer be served anew.

        Raises:
            GateRejected: if it is proposed, but what is attested beside it does not let it be released.
        """
        with self._client() as client:
            number = self._version_of(client, outcome.bundle)
            if number is None:
                return None
            version = self._at(client, number)
            show(client, version.run_id, reports)
            return self._settle(client, number, self.open(version), outcome)

    def champion(self) -> ModelVersion | None:
        """Return the version that answers today; None before the first."""
        return self.named("champion")

    def named(self, alias: Alias) -> ModelVersion | None:
        """Return the version that has a name; None if none has."""
        if self._tracking.is_new:
            return None
        with self._client() as client:
            number = self._version_at(client, alias)
            return None if number is None else self._at(client, number)

    def newest(self) -> ModelVersion | None:
        """Return the version that was registered last, blocked or not; None before the first."""
        if self._tracking.is_new:
            return None
        with self._client() as client:
            found = client.search_model_versions(f"name='{MODEL}'")
            number = max((int(version.version) for version in found), default=None)
            return None if number is None else self._at(client, number)

    def version_of(self, digest: str) -> ModelVersion | None:
        """Return the version of a bundle; None if it is not registered."""
        if self._tracking.is_new:
            return None
        with self._client() as client:
            number = self._version_of(client, digest)
            return None if number is None else self._at(client, number)

    def opponent_of(self, digest: str) -> ModelVersion | None:
        """Return what a bundle must be compared with: the champion; None if it is, or would be, the first release.

        The champion itself is compared with what it was compared with before: a model is no evidence about itself.
        """
        champion = self.champion()
        if champion is None or champion.digest != digest:
            return champion
        return self.version_of(champion.tags.get(_COMPARED_TAG, ""))

    def open(self, version: ModelVersion) -> Bundle:
        """Return the bundle of a version, verified against the digest that was registered.

        Raises:
            PermanentError: if its folder is gone.
            BundleRejected: if the folder does not hold that very bundle.
        """
        if not version.folder.is_dir():
            raise PermanentError(
                f"{version.folder}: the bundle of version {version.version} is gone; restore it or train again"
            )
        return Bundle.open(version.folder, digest=version.digest)

    def resolve(self, alias: Alias) -> Bundle:
        """Return the bundle that `alias` names, verified against the digest that was registered.

        Raises:
            PermanentError: if no version has that alias, or its folder is gone.
            BundleRejected: if the folder does not hold that very bundle.
        """
        version = self.named(alias)
        if version is None:
            raise PermanentError(f"no version is {alias}; {self._why_none()}")
        return self.open(version)

    def check_release(self, bundle: Bundle, contract: str) -> Attestation:
        """Return the attestation that lets `bundle` answer requests.

        Its copy in the content-addressed folder carries the record; a bundle that is not kept here brings its own.
        The champion must have been compared with what it replaced. One that was champion before goes back on the very
        statement that this registry settled last; any later one has to compare it with today's champion.

        Args:
            bundle: verified.
            contract: digest of the release contract in force.

        Raises:
            GateRejected: if it has none that passes under this contract and a profile that is accepted, or was not
                compared with what it has to beat.
            BundleRejected: if its record was altered.
        """
        kept = self._bundles / bundle.digest
        said = require_passing(
            Bundle.open(kept) if kept.is_dir() and kept != bundle.folder else bundle,
            contract,
            accepts=self._accepts,
        )
        champion, opponent = self.champion(), self.opponent_of(bundle.digest)
        wanted = opponent.digest if opponent else None
        if champion is None or said.champion == wanted:
            return said
        own = self.version_of(bundle.digest)
        settled = own.tags.get(_ATTESTATION_TAG) if own and _CHAMPION_TAG in own.tags else None
        if settled == said.digest:  # it goes back to where it was
            return said
        against = f"bundle {said.champion[:12]}" if said.champion else "no champion"
        today = f"the champion is {champion.digest[:12]}"
        if champion.digest == bundle.digest:
            today = f"as the champion it stands on a comparison with {wanted[:12] if wanted else 'no champion'}"
        raise GateRejected(
            f"bundle {bundle.digest[:12]} was compared with {against}, but {today}; "
            f"run `tidegate gates run --bundle {bundle.folder}`"
        )

    def set_alias(self, alias: Alias, version: int, *, contract: str) -> ModelVersion:
        """Give `alias` to `version`, and take it from the one that had it; a candidate that becomes champion is none.

        Raises:
            PermanentError: if there is no such version.
            GateRejected: as `check_release`.
        """
        with self._client() as client:
            found = self._at(client, version)
            self.check_release(self.open(found), contract)
            client.set_registered_model_alias(MODEL, alias, str(version))
            if alias == "champion":
                client.set_model_version_tag(MODEL, str(version), _CHAMPION_TAG, "true")
                if self._version_at(client, "candidate") == version:
                    client.delete_registered_model_alias(MODEL, "candidate")
            return self._at(client, version)

    def _settle(self, client: Any, number: int, bundle: Bundle, outcome: Outcome) -> ModelVersion:
        if outcome.bundle != bundle.digest:
            raise PermanentError(
                f"the outcome is about bundle {outcome.bundle[:12]}, not {bundle.digest[:12]}; judge this one"
            )
        run_id = str(client.get_model_version(MODEL, str(number)).run_id)
        for name, value in _tags_of(outcome).items():
            client.set_model_version_tag(MODEL, str(number), name, value)
            client.set_tag(run_id, name, value)
        told = "; ".join((*outcome.reasons, *outcome.notes))[:_MAX_REASON_CHARS]
        client.update_model_version(MODEL, str(number), f"{outcome.state}: {told}".strip(": "))
        champion = self._version_at(client, "champion")
        if outcome.state == "blocked":
            if self._version_at(client, "candidate") == number:
                client.delete_registered_model_alias(MODEL, "candidate")
        elif champion != number:
            alias: Alias = "champion" if champion is None else "candidate"
            return self.set_alias(alias, number, contract=outcome.contract)
        return self._at(client, number)

    def _why_none(self) -> str:
        newest = self.newest()
        if newest is None or newest.state != "blocked":
            return "train and register one first"
        return (
            f"version {newest.version} was blocked by the gates: "
            f"`tidegate gates show {newest.digest[:12]}` says why"
        )

    def _at(self, client: Any, number: int) -> ModelVersion:
        return self._describe(client.get_model_version(MODEL, str(number)))

    def _create(
        self,
        client: Any,
        bundle: Bundle,
        metrics: Mapping[str, float | None],
        lineage: Mapping[str, str | None],
        reports: Sequence[Path],
    ) -> int:
        champion = self._version_at(client, "champion")
        parent = bundle.manifest.inputs.parent
        if parent is None and champion is not None:
            parent = client.get_model_version(MODEL, str(champion)).tags[_DIGEST_TAG]
        facts = {**lineage, "parent_bundle": parent, _DIGEST_TAG: bundle.digest}
        facts |= {f"version.{name}": version for name, version in bundle.versions.items()}
        facts |= {"profile": bundle.manifest.profile, "seed": str(bundle.manifest.inputs.seed)}
        paths = (bundle.folder / "manifest.json", *reports)
        name = f"bundle {bundle.digest[:12]}"
        with self._tracking.recorded(
            client, name, Facts(metrics, facts, paths), self._artifacts, self._clock
        ) as run:
            tags = {key: value for key, value in facts.items() if value}
            tags[_FOLDER_TAG] = str(bundle.folder.resolve())
            source = f"{run.info.artifact_uri}/{SHOWN}"
            made = client.create_model_version(MODEL, source, run.info.run_id, tags=tags)
        return int(made.version)

    def _version_of(self, client: Any, digest: str) -> int | None:
        if not client.search_registered_models(f"name='{MODEL}'"):
            client.create_registered_model(MODEL)
            return None
        found = client.search_model_versions(f"name='{MODEL}' and tag.{_DIGEST_TAG}='{digest}'")
        return max((int(version.version) for version in found), default=None)

    def _version_at(self, client: Any, alias: str) -> int | None:
        models = client.search_registered_models(f"name='{MODEL}'")
        number = models[0].aliases.get(alias) if models else None
        return None if number is None else int(number)

    def _describe(self, version: Any) -> ModelVersion:
        digest = version.tags[_DIGEST_TAG]
        own = self._bundles / digest  # a home that was moved or mounted elsewhere still holds it
        folder = own if own.is_dir() else Path(version.tags[_FOLDER_TAG])
        return ModelVersion(
            int(version.version),
            digest,
            folder,
            str(version.run_id),
            tuple(sorted(version.aliases)),
            dict(version.tags),
        )


def _check_lineage(bundle: Bundle, lineage: Mapping[str, str | None]) -> None:
    inputs = bundle.manifest.inputs
    for name in ("snapshot", "code"):
        said, true = lineage.get(name), getattr(inputs, name)
        if said is not None and said != true:
            raise PermanentError(
                f"lineage: {name} is {said}, but the bundle was made from {true}; register the run's own bundle"
            )


def _tags_of(outcome: Outcome) -> dict[str, str]:
    caps = ", ".join(f"{policy} from {tier}" for policy, tier in sorted(outcome.caps.items()))
    return {
        _STATE_TAG: outcome.state,
        "gates_reasons": "; ".join(outcome.reasons)[:_MAX_REASON_CHARS] or "none",
        _ATTESTATION_TAG: outcome.attestation,
        "gates_contract": outcome.contract,
        "gates_profile": outcome.profile,
        "gates_closed_tiers": caps[:_MAX_REASON_CHARS] or "none",
        _COMPARED_TAG: outcome.champion or "none",
    }
