"""Every step as a plain function, in the order of the pipeline, on a toy marketplace."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.bundle.component import bundle
from components.calibrate.component import calibrate
from components.embed.component import embed
from components.evaluate.component import evaluate
from components.evaluate.parity import check_parity
from components.home import Home
from components.ingest.component import ingest
from components.judge.component import judge
from components.judge.outcome import Outcome
from components.prove.component import prove
from components.register.component import register
from components.resolve.component import resolve
from components.snapshot.component import snapshot
from components.train.component import train
from components.tune.component import tune
from components.validate.component import validate
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.errors import InvalidSnapshot, PermanentError
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot
from tests.judged import CONTRACT_TEXT, judged
from tests.toy_home import toy_home

DATE = "2026-04-10"
SEED = 3
POLICIES = Path("policies/marketplace.yaml").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ARTIFACTS = {
    "rows": dsl.Dataset,
    "table": dsl.Dataset,
    "embeddings": dsl.Dataset,
    "towers": dsl.Model,
    "model": dsl.Model,
    "calibration": dsl.Model,
    "release": dsl.Model,
    "roc": dsl.ClassificationMetrics,
    "confusion": dsl.ClassificationMetrics,
    "report": dsl.HTML,
    "tiers": dsl.Markdown,
    "page": dsl.HTML,
    "summary": dsl.Markdown,
    "curve": dsl.ClassificationMetrics,
}
PLAIN = ("accepted", "config", "figures", "registered", "evidence", "outcome", "pack")


@dataclass
class Run:
    """What the steps wrote so far."""

    folder: Path
    home: Home
    kept: dict[str, dsl.Artifact]
    results: dict[str, Any]

    def step(self, component: Any, outputs: list[str], **arguments: Any) -> None:
        """Run one step with artefacts of earlier steps; `outputs` names what it writes."""
        name = component.name
        for output in outputs:
            kind = ARTIFACTS.get(output, dsl.Metrics)
            if output in PLAIN:
                kind = dsl.Artifact
            path = self.folder / name / output
            path.parent.mkdir(parents=True, exist_ok=True)
            self.kept[f"{name}.{output}"] = kind(uri=str(path))
        made = {output: self.kept[f"{name}.{output}"] for output in outputs}
        self.results[name] = component.python_func(**arguments, **made)

    def __getitem__(self, name: str) -> dsl.Artifact:
        return self.kept[name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("steps")
    home = toy_home(folder / "home", 480)
    run = Run(folder, home, {}, {})
    here = {"home": str(home.folder), "version": "v"}
    run.step(ingest, ["rows", "counts"], logical_date=DATE, policies=POLICIES, **here)
    rows = run["ingest.rows"]
    run.step(validate, ["accepted", "report", "counts"], rows=rows, policies=POLICIES, **here)
    run.step(
        snapshot,
        ["table", "counts"],
        rows=rows,
        accepted=run["validate.accepted"],
        logical_date=DATE,
        policies=POLICIES,
        min_positives=5,
        **here,
    )
    table = run["snapshot.table"]
    run.step(
        embed,
        ["embeddings", "towers", "counts"],
        table=table,
        profile="tiny",
        seed=SEED,
        **here,
    )
    inputs = {"table": table, "embeddings": run["embed.embeddings"], "version": "v", "seed": SEED}
    run.step(
        tune,
        ["config", "report"],
        home=str(home.folder),
        profile="tiny",
        logical_date=DATE,
        study_url="",
        prior_study="auto",
        num_trials=2,
        **inputs,
    )
    run.step(train, ["model", "metrics"], config=run["tune.config"], **inputs)
    model = run["train.model"]
    run.step(
        calibrate,
        ["calibration", "tiers", "metrics"],
        model=model,
        policies=POLICIES,
        contract=CONTRACT_TEXT,
        **inputs,
    )
    run.step(
        bundle,
        ["release"],
        table=table,
        towers=run["embed.towers"],
        config=run["tune.config"],
        model=model,
        calibration=run["calibrate.calibration"],
        profile="tiny",
        seed=SEED,
        code_digest="code",
        config_digest="config",
        version="v",
    )
    release = run["bundle.release"]
    run.step(
        evaluate,
        ["metrics", "roc", "confusion", "report", "figures"],
        table=table,
        model=model,
        release=release,
        policies=POLICIES,
        seed=SEED,
        **here,
    )
    run.step(resolve, [], release=release, tracking_url="", **here)
    run.step(
        prove,
        ["evidence", "counts"],
        table=table,
        release=release,
        champion=run.results["resolve"],
        contract=CONTRACT_TEXT,
        policies=POLICIES,
        profile="standard",
        seed=SEED,
        **here,
    )
    run.step(
        judge,
        ["outcome", "pack", "page", "summary", "verdicts", "curve"],
        evidence=run["prove.evidence"],
        release=release,
        contract=CONTRACT_TEXT,
        profile="standard",
        seed=SEED,
        **here,
    )
    run.step(register, ["registered"], outcome=run["judge.outcome"], **_registering(run))
    return run


def _registering(run: Run) -> dict[str, Any]:
    return {
        "table": run["snapshot.table"],
        "config": run["tune.config"],
        "release": run["bundle.release"],
        "figures": run["evaluate.figures"],
        "report": run["evaluate.report"],
        "pack": run["judge.pack"],
        "home": str(run.home.folder),
        "tracking_url": "",
        "logical_date": DATE,
        "data_version": "data",
        "code_digest": "code",
        "git_commit": "",
        "version": "v",
    }


def test_steps_leave_a_file_for_every_artifact(run: Run) -> None:
    # The local runner's cache takes an artefact without a file for a lost one.
    missing = [name for name, artifact in run.kept.items() if not Path(artifact.path).exists()]
    assert missing == []


def test_ingest_counts_every_submission(run: Run) -> None:
    assert run["ingest.counts"].metadata["rows"] == 480


def test_snapshot_names_its_digest(run: Run) -> None:
    table = run["snapshot.table"]
    assert table.metadata["digest"] == Snapshot.open(Path(table.path)).digest
    assert run["snapshot.counts"].metadata["test_rows"] > 0


def test_bundle_is_whole_and_named_by_its_digest(run: Run) -> None:
    found = Bundle.open(Path(run["bundle.release"].path))
    assert found.digest == run.results["bundle"]
    assert found.manifest.inputs.snapshot == run["snapshot.table"].metadata["digest"]
    assert "reference" in found.versions


def test_evaluate_gives_what_the_dashboard_draws(run: Run) -> None:
    metrics = run["evaluate.metrics"].metadata
    assert metrics["weapons.ap.ensemble"] > metrics["weapons.prevalence"]
    assert metrics["serving_parity"] < 1e-3
    points = run["evaluate.roc"].metadata["confidenceMetrics"]
    assert points[0]["recall"] <= points[-1]["recall"] == 1
    names = [
        s["displayName"]
        for s in run["evaluate.confusion"].metadata["confusionMatrix"]["annotationSpecs"]
    ]
    assert names == ["clean", "violates"]
    assert "<html" in Path(run["evaluate.report"].path).read_text()


def test_blocked_bundle_is_registered_without_a_name(run: Run) -> None:
    assert run.results["resolve"] == "", "a first release is compared with nothing"
    assert run.results["judge"] == "blocked", "there is no golden set, and no data is no pass"
    outcome = Outcome.load(run["judge.outcome"].path)
    assert outcome.reasons[0].startswith("ranks: no_data")
    assert any("tidegate golden build" in note for note in outcome.notes)
    registered = run["register.registered"].metadata
    assert (registered["aliases"], registered["state"]) == ("", "blocked")
    assert registered["digest"] == run.results["bundle"]
    reports = run.home.reports / run.results["bundle"]
    assert (reports / "report.html").is_file()
    assert (run.home.pack(run.results["bundle"]) / "index.html").is_file()
    assert json.loads((reports / "metrics.json").read_text())["metrics"]
    assert Bundle.open(run.home.bundles / run.results["bundle"])


def test_proposed_bundle_becomes_the_first_champion(run: Run, tmp_path: Path) -> None:
    release = run["bundle.release"]
    judged(Bundle.open(Path(release.path)), run.home).save(str(tmp_path / "outcome"))
    registered = dsl.Artifact(uri=str(tmp_path / "registered"))
    outcome = dsl.Artifact(uri=str(tmp_path / "outcome"))
    version = register.python_func(outcome=outcome, registered=registered, **_registering(run))
    assert version == "1", "the very same bundle"
    assert (registered.metadata["aliases"], registered.metadata["state"]) == (
        "champion",
        "proposed",
    )
    again = resolve.python_func(
        release=release, home=str(run.home.folder), tracking_url="", version="v"
    )
    assert again == "", "a champion is never compared with itself"


def _parity(run: Run, change: Callable[[SignalTable], SignalTable]) -> float:
    signals = SignalTable.load(Path(run["train.model"].path) / "signals.npz")
    return check_parity(
        Bundle.open(Path(run["bundle.release"].path)),
        Snapshot.open(Path(run["snapshot.table"].path)),
        change(signals),
        ContentStore(run.home.content).get,
    )


def test_parity_holds_for_what_was_trained(run: Run) -> None:
    assert _parity(run, lambda signals: signals) < 1e-3


def test_parity_refuses_a_bundle_that_says_something_else(run: Run) -> None:
    def shift(signals: SignalTable) -> SignalTable:
        signals.ngram_NP[:] += 0.01
        return signals

    with pytest.raises(PermanentError, match="must not be served"):
        _parity(run, shift)


def test_parity_refuses_a_bundle_without_a_signal(run: Run) -> None:
    def drop(signals: SignalTable) -> SignalTable:
        signals.behaviour_NP[:] = float("nan")
        return signals

    with pytest.raises(PermanentError, match="misses a signal"):
        _parity(run, drop)


def test_snapshot_refuses_too_little_truth(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InvalidSnapshot, match="are needed"):
        snapshot.python_func(
            rows=run["ingest.rows"],
            accepted=run["validate.accepted"],
            logical_date=DATE,
            home=str(run.home.folder),
            policies=POLICIES,
            min_positives=10_000,
            version="v",
            table=dsl.Dataset(uri=str(tmp_path / "table")),
            counts=dsl.Metrics(uri=str(tmp_path / "counts")),
        )


def test_validate_refuses_an_empty_day(run: Run, tmp_path: Path) -> None:
    rows = dsl.Dataset(uri=str(tmp_path / "rows"))
    counts = dsl.Metrics(uri=str(tmp_path / "counts"))
    ingest.python_func(
        logical_date="2020-01-01",
        home=str(run.home.folder),
        policies=POLICIES,
        version="v",
        rows=rows,
        counts=counts,
    )
    report = dsl.Markdown(uri=str(tmp_path / "report.md"))
    with pytest.raises(InvalidSnapshot, match="no submission before the cut-off"):
        validate.python_func(
            rows=rows,
            home=str(run.home.folder),
            policies=POLICIES,
            version="v",
            accepted=dsl.Artifact(uri=str(tmp_path / "accepted")),
            report=report,
            counts=counts,
        )
    assert "| rows | 0 |" in Path(report.path).read_text()
