"""What the gateway reads without Feast is what Feast writes, and reading it loads no Feast."""

import subprocess
import sys

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Null
from feast.protos.feast.types.Value_pb2 import Value as FeastValue

from featurestore.layout import STREAM
from featurestore.wire import Value, entity_key, entity_key_of, key_prefix, redis_field
from moderation.activity_rows import RowKind


@pytest.mark.parametrize("text", ["s1", "", "продавец", "x" * 300])
@pytest.mark.parametrize("join_key", [*(kind.join_key for kind in RowKind), "stream_id"])
def test_keys_are_feasts(join_key: str, text: str) -> None:
    key = EntityKey(join_keys=[join_key], entity_values=[FeastValue(string_val=text)])
    expected = serialize_entity_key(key, entity_key_serialization_version=3)
    assert entity_key(key_prefix(join_key), text) == expected


def test_keys_of_several_texts_are_feasts() -> None:
    keys = {"policy_id": "spam", "listing_id": "u1"}
    values = [FeastValue(string_val=text) for text in keys.values()]
    expected = serialize_entity_key(
        EntityKey(join_keys=list(keys), entity_values=values), entity_key_serialization_version=3
    )
    assert entity_key_of(keys) == expected


@pytest.mark.parametrize("column", [*(kind.column for kind in RowKind), "through_us"])
def test_fields_of_redis_are_feasts(column: str) -> None:
    assert redis_field(STREAM, column) == _mmh3(f"{STREAM}:{column}")


@pytest.mark.parametrize(
    ("written", "kind", "value"),
    [
        (FeastValue(bytes_val=b"\x00row\xff"), "bytes_val", b"\x00row\xff"),
        (FeastValue(bytes_val=b""), "bytes_val", b""),
        (FeastValue(int64_val=-(2**62)), "int64_val", -(2**62)),
        (FeastValue(int64_val=0), "int64_val", 0),
        (FeastValue(double_val=1 / 3), "double_val", 1 / 3),
    ],
)
def test_values_are_feasts(written: FeastValue, kind: str, value: object) -> None:
    read = Value.FromString(written.SerializeToString())
    assert read.WhichOneof("val") == kind
    assert getattr(read, kind) == value


@pytest.mark.parametrize("nothing", [FeastValue(), FeastValue(null_val=Null.NULL)])
def test_nothing_is_told_from_an_empty_row(nothing: FeastValue) -> None:
    assert Value.FromString(nothing.SerializeToString()).WhichOneof("val") is None


@pytest.mark.parametrize(
    "module", ["serving.gateway.__main__", "featurestore.online", "components.ingest.step"]
)
def test_reading_loads_no_feast(module: str) -> None:
    """Its import takes seconds, and memory by the hundred megabytes."""
    code = f"import sys, {module}; sys.exit('feast' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
