import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kfp import dsl

from components.outputs import log_confusion, log_metrics, log_record, log_roc, place_folder
from components.policies import cut_off_of, read_policies
from moderation.errors import PermanentError, PolicyError


def test_metrics_are_plain_floats_in_metadata_and_file(tmp_path: Path) -> None:
    metrics = dsl.Metrics(uri=str(tmp_path / "deep" / "metrics"))
    values: dict[str, Any] = {"ap": np.float32(0.5)}
    log_metrics(metrics, values)
    assert metrics.metadata == {"ap": 0.5}
    assert type(metrics.metadata["ap"]) is float
    assert json.loads(Path(metrics.path).read_text()) == {"ap": 0.5}


def test_roc_and_confusion_are_what_the_dashboard_reads(tmp_path: Path) -> None:
    roc = dsl.ClassificationMetrics(uri=str(tmp_path / "roc"))
    log_roc(roc, [(np.float64(0.0), 0.5, 0.9), (1.0, 1.0, 0.0)])
    assert roc.metadata["confidenceMetrics"][0] == {
        "confidenceThreshold": 0.9,
        "recall": 0.5,
        "falsePositiveRate": 0.0,
    }
    confusion = dsl.ClassificationMetrics(uri=str(tmp_path / "confusion"))
    log_confusion(confusion, ["clean", "violates"], [[10.2, 1], [0, np.float64(3)]])
    rows = [row["row"] for row in confusion.metadata["confusionMatrix"]["rows"]]
    assert rows == [[10, 1], [0, 3]]
    assert Path(confusion.path).exists()


def test_record_is_kept_in_metadata_and_file(tmp_path: Path) -> None:
    artifact = dsl.Artifact(uri=str(tmp_path / "record"))
    log_record(artifact, {"version": "3"})
    assert artifact.metadata["version"] == "3"
    assert json.loads(Path(artifact.path).read_text()) == {"version": "3"}


def test_place_folder_replaces_what_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "a" / "target"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_text("new")
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    place_folder(source, target)
    assert (target / "inner" / "file").read_text() == "new"
    assert not (target / "old").exists()


def test_cut_off_is_the_start_of_the_day() -> None:
    assert cut_off_of("2026-11-20").isoformat() == "2026-11-20T00:00:00+00:00"


def test_cut_off_refuses_what_is_no_date() -> None:
    with pytest.raises(PermanentError, match="write it as 2026-11-20"):
        cut_off_of("20/11/2026")


def test_policies_travel_as_text() -> None:
    text = Path("policies/marketplace.yaml").read_text(encoding="utf-8")
    assert read_policies(text).ids == ("weapons", "counterfeit", "spam")


def test_policies_that_do_not_load_are_refused() -> None:
    with pytest.raises(PolicyError, match="version"):
        read_policies("version: [")


@pytest.mark.parametrize("text", ["version: [", "- a", "version: 1"])
def test_policies_are_called_by_where_they_came_from(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^the pipeline's policies:"):
        read_policies(text)
    with pytest.raises(PolicyError, match=r"^mine/policies\.yaml:"):
        read_policies(text, "mine/policies.yaml")
