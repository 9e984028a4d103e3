"""A feature service for each bundle: which behaviour features a model version reads, in its own order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from feast import FeatureService, FeatureStore
from feast.errors import FeastError

from featurestore.definitions import BEHAVIOUR
from featurestore.layout import FeaturesNotReady
from featurestore.quiet import quiet_feast
from moderation.errors import BundleRejected
from moderation.features import FEATURE_NAMES

DIGEST_TAG: Final = "bundle"
NAMES_TAG: Final = "features"
"""Tag that lists the names, in the order of the model's input; a service's own order says nothing."""

_SHORT: Final = 12


@dataclass(frozen=True)
class ModelFeatures:
    """What one bundle reads."""

    digest: str
    names: tuple[str, ...]
    """Behaviour features in the order of the model's input."""

    @property
    def service(self) -> str:
        """Name of its feature service."""
        return f"{BEHAVIOUR}_{self.digest[:_SHORT]}"


def check_features(model: ModelFeatures) -> None:
    """Refuse a bundle that reads what this release does not compute.

    Raises:
        BundleRejected: naming the features.
    """
    unknown = [name for name in model.names if name not in FEATURE_NAMES]
    twice = sorted({name for name in model.names if model.names.count(name) > 1})
    if unknown or twice or not model.names:
        wrong = f"unknown {', '.join(unknown)}" if unknown else f"twice {', '.join(twice)}"
        raise BundleRejected(
            f"bundle {model.digest[:_SHORT]} gets no feature service: of its behaviour features,"
            f" {wrong if model.names else 'there are none'}; train it again with this release"
        )


def apply_services(store: FeatureStore, models: Sequence[ModelFeatures]) -> list[str]:
    """Put the feature service of each bundle into force, and return their names.

    Raises:
        BundleRejected: if a bundle reads what this release does not compute; then nothing was changed.
        FeaturesNotReady: if Feast cannot keep them.
    """
    for model in models:
        check_features(model)
    try:
        with quiet_feast():
            behaviour = store.get_on_demand_feature_view(BEHAVIOUR)
            services: list[Any] = [
                FeatureService(
                    name=model.service,
                    features=[behaviour[list(model.names)]],
                    tags={DIGEST_TAG: model.digest, NAMES_TAG: ",".join(model.names)},
                    description=f"behaviour that bundle {model.digest[:_SHORT]} reads",
                )
                for model in models
            ]
            if services:
                store.apply(services)
    except (FeastError, OSError) as error:
        raise FeaturesNotReady(f"feature services cannot be set up: {error}") from error
    return [service.name for service in services]


def service_of(store: FeatureStore, digest: str) -> ModelFeatures:
    """Return what the service of a bundle says of it.

    Raises:
        FeaturesNotReady: if it has none: run `tidegate features apply`.
    """
    name = ModelFeatures(digest, ()).service
    try:
        tags = store.get_feature_service(name).tags
    except FeastError as error:
        raise FeaturesNotReady(f"{name} is not there: tidegate features apply") from error
    return ModelFeatures(tags[DIGEST_TAG], tuple(tags[NAMES_TAG].split(",")))
