"""What Feast holds is what the domain declares, and Feast's own command line finds it."""

import runpy
from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.types import Bytes, Float64

from featurestore.definitions import BEHAVIOUR, declare
from moderation.activity_rows import RowKind
from moderation.features import FEATURE_NAMES, FEATURES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return declare(tmp_path_factory.mktemp("features"))


def test_the_behaviour_view_has_the_features_of_the_domain_in_their_order(
    objects: list[object],
) -> None:
    [view] = [one for one in objects if isinstance(one, OnDemandFeatureView)]
    assert view.name == BEHAVIOUR
    assert tuple(field.name for field in view.features) == FEATURE_NAMES
    assert {field.dtype for field in view.features} == {Float64}


def test_the_profile_view_says_what_each_feature_means(objects: list[object]) -> None:
    [profile] = [o for o in objects if isinstance(o, FeatureView) and o.name == "seller_profile"]
    found = {field.name: field.description for field in profile.features}
    assert found == {feature.name: feature.meaning for feature in FEATURES}


def test_every_kind_of_row_has_its_view(objects: list[object]) -> None:
    views = {one.name: one for one in objects if isinstance(one, FeatureView)}
    for kind in RowKind:
        view = views[kind.view]
        assert [column.name for column in view.entity_columns] == [kind.join_key]
        [field] = view.features
        assert (field.name, field.dtype) == (
            kind.column,
            Float64 if kind is RowKind.PRICE else Bytes,
        )


def test_monitored_views_hold_scalars(objects: list[object]) -> None:
    """Feast's monitoring computes nothing at all for a view with one array in it."""
    for one in objects:
        if isinstance(one, FeatureView):
            assert not [field.name for field in one.features if "ARRAY" in str(field.dtype).upper()]


def test_feasts_own_command_line_finds_the_same_objects(objects: list[object]) -> None:
    found = runpy.run_path(str(ROOT / "feature_repo" / "definitions.py"))
    kinds = (Entity, FeatureView, OnDemandFeatureView, FeatureService)
    names = {(type(one).__name__, one.name) for one in found.values() if isinstance(one, kinds)}
    assert names == {
        (type(one).__name__, one.name)  # type: ignore[attr-defined]
        for one in objects
    }
