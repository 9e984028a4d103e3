"""From an export of hard examples to the next snapshot: rows of their kind train more, and they themselves never do."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from components import golden as drawing
from components.home import Home
from components.ingest import step as ingest
from components.snapshot import step as freezing
from components.snapshot.hard_kinds import emphasis_of
from ledger.events import from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from moderation.attacks.hard_examples import DamagedExport, HardExample, export
from moderation.emphasis import MAX_EMPHASIS
from moderation.export import export_towers
from moderation.listing import GroundTruth, TruthSource
from moderation.profiles import profile_named
from moderation.settings import Settings
from moderation.snapshot import Snapshot
from pipelines.parameters import Choices, parameters
from tests.golden_world import AS_OF, RULES, GoldenWorld, own_text

POLICIES = Path("policies/marketplace.yaml").read_text(encoding="utf-8")
IDS = ("weapons", "counterfeit", "spam")
DAY = timedelta(days=1)
EARLIER, LATER = "a" * 64, "b" * 64
_MANY = [f"golden-{number}" for number in range(20)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with 240 listings without photos, every second a violation, half of them toys."""
    world, home, events = GoldenWorld(), Home(tmp_path / "home"), []
    home.folder.mkdir()
    for number in range(240):
        listing = {"category": "toys" if number % 4 < 2 else "phones", "language": "en"}
        row = world.add(seller=f"s{number // 2}", text=own_text(number), listing=listing)
        submission, at = row.submission, row.submission.submitted_at
        events.append(from_submission(submission, recorded_at=at))
        for place, policy in enumerate(IDS):
            truth = GroundTruth(
                submission_id=submission.submission_id,
                policy=policy,
                violates=number % 2 == 0 and number // 4 % 3 == place,
                source=TruthSource.AUDIT,
                reviewed_at=at + DAY / 8,
                known_at=at + DAY / 8,
            )
            events.append(from_ground_truth(truth, recorded_at=truth.known_at))
    SqliteLedger(home.ledger).append(events)
    return home


def _frozen(home: Home, folder: Path, day: datetime = AS_OF) -> tuple[Snapshot, dict[str, float]]:
    rows, date = folder / "rows.parquet", f"{day:%Y-%m-%d}"
    ingest.run(str(home.folder), date, POLICIES, out=str(rows))
    done = freezing.run(str(rows), str(home.folder), date, POLICIES, 1, out=str(folder / "table"))
    return Snapshot.open(folder / "table"), done.counts


def _export(
    home: Home, bundle: str, seen_until: datetime, submission_ids: Sequence[str] = _MANY
) -> Path:
    """Write what attacks turned of a bundle: golden toys that are weapons, as the proof of the bundle does."""
    facts = home.reports / bundle / "cut_off.json"
    facts.parent.mkdir(parents=True, exist_ok=True)
    facts.write_text(json.dumps({"snapshot": "c" * 64, "cut_off": seen_until.isoformat()}))
    examples = [
        HardExample(
            submission_id=one,
            policy="weapons",
            truth=1,
            bundle=bundle,
            attack="leet",
            family="text",
            severity=1.0,
            before=0.9,
            after=0.1,
            like={"language": "en", "category": "toys", "seller_age": "old"},
        )
        for one in submission_ids
    ]
    return export(examples, home.hard_examples, bundle=bundle, subject_of=lambda _id: None)


def test_exported_kind_is_emphasised_in_the_next_snapshot(home: Home, tmp_path: Path) -> None:
    plain, counts = _frozen(home, tmp_path / "plain")
    assert set(plain.emphasis) == {1.0}
    assert counts["emphasised_rows"] == 0
    _export(home, EARLIER, AS_OF - DAY)
    snapshot, counts = _frozen(home, tmp_path / "more")
    is_kind_N = (snapshot.truth_NP()[:, IDS.index("weapons")] == 1) & (
        snapshot.column("category") == "toys"
    )
    is_emphasised_N = snapshot.emphasis > 1
    np.testing.assert_array_equal(is_emphasised_N, is_kind_N & (snapshot.role == "train"))
    assert set(snapshot.emphasis[is_emphasised_N]) == {MAX_EMPHASIS}
    assert counts["emphasised_rows"] == is_emphasised_N.sum() > 0
    assert snapshot.digest != plain.digest
    np.testing.assert_array_equal(snapshot.weight, plain.weight)


@pytest.mark.slow
def test_hard_examples_themselves_stay_golden(
    home: Home, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    towers = pytestconfig.cache.mkdir("small_towers")
    export_towers(profile_named("small"), towers)
    home.towers.symlink_to(towers)
    golden = drawing.build(home, AS_OF, IDS, RULES.model_copy(update={"share_of_groups": 0.25}))
    held = set(golden.table.column("submission_id").tolist())
    _export(home, EARLIER, AS_OF - DAY, submission_ids=sorted(held))
    snapshot, counts = _frozen(home, tmp_path)
    assert counts["emphasised_rows"] > 0
    assert not held & set(snapshot.column("submission_id").tolist())
    assert counts["quarantined_golden"] == len(held)


def test_a_date_run_again_does_not_see_what_came_of_itself(home: Home, tmp_path: Path) -> None:
    settings = Settings(home=home.folder)
    choices = Choices(f"{AS_OF:%Y-%m-%d}")
    first, before = _frozen(home, tmp_path / "first")[0], parameters(choices, settings)
    _export(home, EARLIER, AS_OF)
    _export(home, LATER, AS_OF + DAY)
    again = _frozen(home, tmp_path / "again")[0]
    assert again.digest == first.digest
    assert parameters(choices, settings).data_version == before.data_version
    _export(home, EARLIER, AS_OF - DAY)
    assert parameters(choices, settings).data_version != before.data_version


def test_only_the_newest_bundles_count(home: Home) -> None:
    _export(home, "0" * 64, AS_OF - 30 * DAY, ["golden-1"])
    assert emphasis_of(home, AS_OF).factor
    for number in range(1, 9):
        _export(home, f"{number}" * 64, AS_OF - number * DAY, [])
    assert not emphasis_of(home, AS_OF).factor, "eight newer bundles withstand it"


def test_no_export_emphasises_nothing(home: Home) -> None:
    assert not emphasis_of(home, AS_OF).factor


def test_damaged_export_stops_the_snapshot_and_the_run(home: Home, tmp_path: Path) -> None:
    path = _export(home, EARLIER, AS_OF - DAY)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DamagedExport, match=f"{EARLIER}.jsonl is no whole export.*delete it"):
        _frozen(home, tmp_path)
    with pytest.raises(DamagedExport, match="delete it"):
        parameters(Choices(f"{AS_OF:%Y-%m-%d}"), Settings(home=home.folder))
    path.unlink()
    assert _frozen(home, tmp_path)[1]["emphasised_rows"] == 0


def test_export_of_a_bundle_that_nobody_knows_is_refused(home: Home) -> None:
    _export(home, EARLIER, AS_OF - DAY)
    (home.reports / EARLIER / "cut_off.json").unlink()
    with pytest.raises(DamagedExport, match="saw truth is unknown here"):
        emphasis_of(home, AS_OF)
