"""What the feature store holds: entities, views and services, declared for one folder of history."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, Final, cast

from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    OnDemandFeatureView,
    PushSource,
    RequestSource,
    ValueType,
)
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.types import Bytes, FeastType, Float64, Int64, String

from featurestore.layout import CREATED, EVENT_TIME, STREAM, history_folder
from moderation.activity_rows import RowKind
from moderation.behaviour import Rows, behaviour
from moderation.features import FEATURE_NAMES, FEATURES
from moderation.listing import Submission

BEHAVIOUR: Final = "behaviour"
"""Name of the view, and of the service, that finish the windows at the instant of an upload."""

DECISIONS: Final = "decisions"
"""View of what was decided, one row per submission; its key `listing_id` is the submission's id."""

GROUND_TRUTH: Final = "ground_truth"
"""View of what was established, one row per submission and policy: both are its key."""

DRIFT_SIGNAL: Final = "drift_signal"
"""View of what one detector says of one window; its event time is the window's end."""

DRIFT_STATE: Final = "drift_state"
"""View of the one row per model and arm that a rollout goes by."""

_ROW_TYPES: Final[dict[RowKind, FeastType]] = {
    RowKind.SELLER: Bytes,
    RowKind.DEVICE: Bytes,
    RowKind.ADDRESS: Bytes,
    RowKind.PRICE: Float64,
}
_MEANINGS: Final = {
    RowKind.SELLER: "what a seller did, in time buckets; read it through the view `behaviour`",
    RowKind.DEVICE: "which sellers used a device, and when last",
    RowKind.ADDRESS: "which sellers used an address, and when last",
    RowKind.PRICE: "median log price of a category and currency, newest 301 uploads",
}
_DECISION: Final[dict[str, tuple[FeastType, str]]] = {
    "seller_id": (String, "who uploaded; empty where nobody is named"),
    "tier": (String, "what was decided"),
    "release": (String, "digest of the bundle that answered; empty where none did"),
    "arm": (String, "champion or candidate"),
    "policy_version": (String, "version of the policy file"),
    "latency_ms": (Float64, "milliseconds until the model had answered; null where none did"),
    "degraded": (Int64, "how many parts were missing or fell back"),
    "top_policy": (String, "policy of the highest probability; empty where no model answered"),
    "top_probability": (Float64, "highest probability over policies; null where no model answered"),
}
_TRUTH: Final[dict[str, tuple[FeastType, str]]] = {
    "violates": (Int64, "1 where it does"),
    "source": (String, "review, appeal, audit, ..."),
    "adjudicated": (Int64, "1 where a second person confirmed it"),
    "propensity": (Float64, "chance that it was looked at"),
    "reviewed_us": (
        Int64,
        "microseconds since 1970 of the review; the event time is when it arrived",
    ),
}
_DRIFT_SIGNAL: Final[dict[str, tuple[FeastType, str]]] = {
    "model_id": (String, "model"),
    "model_version": (String, "digest of the bundle"),
    "arm": (String, "champion or candidate"),
    "kind": (
        String,
        "dq, feature, embedding, score, decision, perf_est, perf_label or consistency",
    ),
    "modality": (String, "image, text, behaviour, score, decision, truth or data_quality"),
    "target": (String, "what was looked at"),
    "segment": (String, "which listings"),
    "detector": (String, "name"),
    "config_hash": (String, "of the detector's settings"),
    "window_start_us": (Int64, "microseconds since 1970"),
    "window_end_us": (Int64, "microseconds since 1970"),
    "window_seq": (Int64, "rises strictly"),
    "expires_us": (Int64, "microseconds since 1970; a signal past it is no data"),
    "n_ref": (Int64, "rows of the reference"),
    "n_cur": (Int64, "rows of the window"),
    "statistic": (Float64, "what the detector measured"),
    "statistic_kind": (String, "p, distance, rate or e"),
    "effect": (Float64, "size of the change"),
    "p_adjusted": (Float64, "after correction for the family"),
    "threshold": (Float64, "at which it alarms"),
    "status": (Int64, "0 ok, 1 watch, 2 ticket, 3 page, 9 unknown"),
    "streak": (Int64, "windows in a row with this status"),
    "report_id": (String, "report that shows it"),
}
_DRIFT_STATE: Final[dict[str, tuple[FeastType, str]]] = {
    "max_status": (Int64, "worst status"),
    "action": (String, "promote_ok, hold, rollback or retrain_candidate"),
    "reason_code": (String, "why"),
    "top_signal_id": (String, "signal behind it"),
    "signals_total": (Int64, "signals"),
    "signals_alarming": (Int64, "signals that alarm"),
    "signals_unknown": (Int64, "signals without data"),
    "window_seq": (Int64, "rises strictly"),
    "expires_us": (Int64, "microseconds since 1970; past it the state is no data"),
    "report_id": (String, "report that shows it"),
}

OPTIONAL: Final = "optional"
"""Tag of a field that a writer may leave out: null says that nobody knows."""

_OPTIONAL: Final = frozenset(
    {"statistic", "effect", "p_adjusted", "threshold", "top_signal_id", "report_id"}
)


def declare(folder: Path, *, is_spark: bool = False) -> list[Any]:
    """Return every Feast object of this release.

    Args:
        folder: absolute, where the history lies; Feast resolves relative paths against the current directory.
        is_spark: whether Spark reads the history: Feast's Spark store takes no source but its own.
    """
    history = partial(_spark_source if is_spark else _file_source, folder)
    entities = {kind: _entity(kind.join_key, _MEANINGS[kind]) for kind in RowKind}
    listing = _entity("listing_id", "a submission of a listing: the submission's id")
    policy = _entity("policy_id", "a policy, by its id in the policy file")
    model = _entity("model_id", "a model and its arm: `name|arm`")
    signal = _entity("signal_id", "model|arm|modality|target|segment|detector")
    stream = _entity("stream_id", "a stream of events")
    activity = {
        kind: _pushed(
            kind.view,
            [entities[kind]],
            {kind.column: (_ROW_TYPES[kind], _MEANINGS[kind])},
            history,
            ttl=None,
        )
        for kind in RowKind
    }
    columns = {one.name: (Float64, one.meaning) for one in FEATURES}
    profile = _batch("seller_profile", entities[RowKind.SELLER], columns, history)
    views = [
        *activity.values(),
        profile,
        _pushed(DECISIONS, [listing], _DECISION, history, ttl=timedelta(days=180)),
        _pushed(GROUND_TRUTH, [listing, policy], _TRUTH, history, ttl=None),
        _pushed(DRIFT_SIGNAL, [signal], _DRIFT_SIGNAL, history, ttl=timedelta(days=2)),
        _pushed(DRIFT_STATE, [model], _DRIFT_STATE, history, ttl=timedelta(days=2)),
        _pushed(
            STREAM,
            [stream],
            {
                "through_us": (Int64, "everything that was known by then is in the rows"),
                "sequence": (Int64, "newest event of the ledger that was read"),
            },
            history,
            ttl=None,
        ),
    ]
    upload = RequestSource(name="upload", schema=[Field(name="submission", dtype=String)])
    finished = OnDemandFeatureView(
        name=BEHAVIOUR,
        description="behaviour behind one upload, its windows finished at the instant of the upload",
        sources=[*activity.values(), upload],
        # Feast loses what is said of a field of such a view and then finds it another; `seller_profile` says it.
        schema=[Field(name=name, dtype=Float64) for name in FEATURE_NAMES],
        udf=cast(FunctionType, _finish),
        udf_string=inspect.getsource(_finish),
        mode="python",
    )
    # Its schema is declared; Feast would try it on invented rows, which are no rows.
    finished.infer_features = lambda: None  # type: ignore[method-assign]
    services = [
        FeatureService(name=BEHAVIOUR, features=[finished], description="what a predictor reads"),
        FeatureService(name="profile", features=[profile], description="what drift windows read"),
    ]
    used = [*entities.values(), listing, policy, model, signal, stream]
    return [*used, *views, finished, *services]


def declared_digest() -> str:
    """Return a digest of what this release declares: SHA-256, in hex."""
    kinds = [(kind.view, kind.join_key, kind.column) for kind in RowKind]
    declared = Path(__file__).read_bytes() + repr((FEATURES, kinds)).encode()
    return hashlib.sha256(declared).hexdigest()


def finish(inputs: dict[str, list[Any]]) -> dict[str, list[float]]:
    """Return the behaviour behind some uploads: Feast's way to the one function that finishes windows.

    Args:
        inputs: `submission` as JSON, and one column of rows per kind; None where there is none.
    """
    found: dict[str, list[float]] = {name: [] for name in FEATURE_NAMES}
    for place, text in enumerate(inputs["submission"]):
        submission = Submission.model_validate_json(text)
        values = {kind: inputs[kind.column][place] for kind in RowKind}
        for name, value in zip(
            FEATURE_NAMES, behaviour(submission, Rows.of(values)).tolist(), strict=True
        ):
            found[name].append(value)
    return found


def _finish(inputs):  # type: ignore[no-untyped-def]
    # Feast keeps the text of this function and runs it by itself, so that all it needs is imported here.
    from featurestore.definitions import finish

    return finish(inputs)


def _entity(name: str, meaning: str) -> Entity:
    return Entity(name=name, join_keys=[name], value_type=ValueType.STRING, description=meaning)


def _field(name: str, dtype: FeastType, meaning: str) -> Field:
    tags = {OPTIONAL: "true"} if name in _OPTIONAL else {}
    return Field(name=name, dtype=dtype, description=meaning, tags=tags)


_History = Callable[[str], DataSource]
"""View -> where its history lies."""


def _file_source(folder: Path, name: str) -> DataSource:
    return FileSource(
        name=f"{name}_history",
        path=str(history_folder(folder, name) / "*.parquet"),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIME,
        created_timestamp_column=CREATED,
    )


def _spark_source(folder: Path, name: str) -> DataSource:
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import (
        SparkSource,  # it loads pyspark
    )

    return SparkSource(
        name=f"{name}_history",
        path=str(history_folder(folder, name)),
        file_format="parquet",
        timestamp_field=EVENT_TIME,
        created_timestamp_column=CREATED,
    )


def _batch(
    name: str, entity: Entity, columns: Mapping[str, tuple[FeastType, str]], history: _History
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[entity],
        schema=_schema([entity], columns),
        source=history(name),
        ttl=timedelta(days=2),
        online=True,
    )


def _pushed(
    name: str,
    entities: Sequence[Entity],
    columns: Mapping[str, tuple[FeastType, str]],
    history: _History,
    *,
    ttl: timedelta | None,
) -> FeatureView:
    """Return a view that is written as things happen; its rows never expire without a `ttl`."""
    return FeatureView(
        name=name,
        entities=list(entities),
        schema=_schema(entities, columns),
        source=PushSource(name=f"{name}_push", batch_source=history(name)),
        ttl=ttl,
        online=True,
    )


def _schema(
    entities: Sequence[Entity], columns: Mapping[str, tuple[FeastType, str]]
) -> list[Field]:
    fields = [_field(name, dtype, meaning) for name, (dtype, meaning) in columns.items()]
    return [*(Field(name=one.join_key, dtype=String) for one in entities), *fields]


__all__ = [
    "BEHAVIOUR",
    "DECISIONS",
    "DRIFT_SIGNAL",
    "DRIFT_STATE",
    "GROUND_TRUTH",
    "OPTIONAL",
    "declare",
    "declared_digest",
    "finish",
]
