"""Each bundle has a service that names what it reads, in its order."""

from datetime import timedelta

import pytest
from feast import FeatureStore

from featurestore.definitions import BEHAVIOUR
from featurestore.layout import FeaturesNotReady, Place
from featurestore.model_services import (
    DIGEST_TAG,
    NAMES_TAG,
    ModelFeatures,
    apply_services,
    service_of,
)
from featurestore.quiet import quiet_feast
from featurestore.repository import apply
from featurestore.stream import FeatureStream
from ledger.events import from_submission
from ledger.ledger import SqliteLedger
from moderation.errors import BundleRejected
from moderation.features import FEATURE_NAMES
from tests.feature_events import START, upload

DIGEST = "0123456789abcdef" * 4
NAMES = ("submissions_24h", "seller_age_days", "reports_30d")


def test_a_bundle_reads_its_features_through_its_service(
    store: FeatureStore, stream: FeatureStream, ledger: SqliteLedger
) -> None:
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    stream.step()
    assert apply_services(store, [ModelFeatures(DIGEST, NAMES)]) == ["behaviour_0123456789ab"]
    service = store.get_feature_service("behaviour_0123456789ab")
    assert service.tags == {DIGEST_TAG: DIGEST, NAMES_TAG: ",".join(NAMES)}
    assert service_of(store, DIGEST) == ModelFeatures(DIGEST, NAMES)
    asked = upload("q", START + timedelta(hours=2))
    keys = dict.fromkeys(("device_id", "address_id", "price_id"), "")
    with quiet_feast():
        found = store.get_online_features(
            features=service,
            entity_rows=[{**keys, "seller_id": "s1", "submission": asked.model_dump_json()}],
        ).to_dict()
    assert {name: found[name] for name in found if name in FEATURE_NAMES} == {
        "submissions_24h": [1.0],
        "seller_age_days": [pytest.approx(2 / 24)],
        "reports_30d": [0.0],
    }


def test_applying_the_release_again_keeps_the_services(store: FeatureStore, place: Place) -> None:
    apply_services(store, [ModelFeatures(DIGEST, FEATURE_NAMES)])
    again = apply(place)
    assert service_of(again, DIGEST).names == FEATURE_NAMES
    apply_services(again, [ModelFeatures(DIGEST, NAMES)])
    assert service_of(again, DIGEST).names == NAMES
    assert {one.name for one in again.list_feature_services()} == {
        BEHAVIOUR,
        "profile",
        "behaviour_0123456789ab",
    }


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("submissions_24h", "karma"), "unknown karma"),
        (("submissions_24h", "submissions_24h"), "twice submissions_24h"),
        ((), "there are none"),
    ],
)
def test_a_bundle_of_other_features_is_refused(
    store: FeatureStore, names: tuple[str, ...], why: str
) -> None:
    fine = ModelFeatures("f" * 64, NAMES)
    with pytest.raises(BundleRejected, match=f"bundle 0123456789ab .*{why}.*train it again"):
        apply_services(store, [fine, ModelFeatures(DIGEST, names)])
    with pytest.raises(FeaturesNotReady, match="tidegate features apply"):
        service_of(store, fine.digest)
