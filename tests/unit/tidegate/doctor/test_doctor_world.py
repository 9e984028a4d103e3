"""The doctor's world: the same seed gives the same bytes, and the ledger holds what training and gates need."""

from datetime import timedelta
from pathlib import Path

from components.behaviour import known_behaviour, place_of
from components.contract import read_contract
from components.home import Home
from components.ingest.rows import read_rows
from components.policies import read_policies
from featurestore.writer import letters_of
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.features import FEATURE_NAMES
from moderation.image import decode
from moderation.snapshot_rows import SnapshotRow
from tidegate.doctor.goods import LANGUAGES, vocabulary
from tidegate.doctor.world import END, LAST_DAY, DoctorWorld, Size, policy_text

_POLICIES = policy_text(Path("policies/marketplace.yaml"))
_IDS = read_policies(_POLICIES).ids
_SMALL = Size(violators=12, lookalike=8, ordinary=10, unsure=6, newcomers=9)


def _rows(folder: Path, seed: int = 3) -> list[SnapshotRow]:
    home = Home(folder)
    DoctorWorld(_IDS, seed, _SMALL).fill(home)
    ledger = SqliteLedger(home.ledger)
    known = known_behaviour(home, ledger)
    return list(read_rows(ledger, END + timedelta(days=3), _IDS, known))


def test_the_same_seed_gives_the_same_world(tmp_path: Path) -> None:
    first, second = (_rows(tmp_path / name) for name in ("a", "b"))
    assert [row.submission for row in first] == [row.submission for row in second]
    assert [row.truth for row in first] == [row.truth for row in second]


def test_another_seed_gives_another_world(tmp_path: Path) -> None:
    first, second = _rows(tmp_path / "a"), _rows(tmp_path / "b", seed=4)
    assert [row.submission for row in first] != [row.submission for row in second]


def test_every_policy_is_violated_and_kept(tmp_path: Path) -> None:
    known = [row for row in _rows(tmp_path) if row.truth]
    for policy in _IDS:
        assert {row.truth[policy] for row in known} == {True, False}
        assert all(policy in row.adjudicated for row in known)


def test_sellers_have_a_past_that_is_unreviewed(tmp_path: Path) -> None:
    rows = _rows(tmp_path)
    past = [row for row in rows if "-p" in row.submission.submission_id]
    assert past
    assert not any(row.truth for row in past)
    assert not any(row.submission.image_digests for row in past)
    ages = [row.behaviour_F[0] for row in rows if row.truth and row.behaviour_F is not None]
    assert min(ages) < 3 < 14 < max(ages)


def test_some_uploads_come_after_the_last_training(tmp_path: Path) -> None:
    late = [row for row in _rows(tmp_path) if row.submission.submitted_at >= LAST_DAY and row.truth]
    assert any(any(row.truth.values()) for row in late)
    assert not all(any(row.truth.values()) for row in late)


def test_photos_can_be_decoded(tmp_path: Path) -> None:
    digests = [digest for row in _rows(tmp_path) for digest in row.submission.image_digests]
    store = ContentStore(Home(tmp_path).content)
    assert {decode(store.get(digest)).size for digest in digests[:10]} == {(64, 64)}


def test_no_word_is_shared_by_languages() -> None:
    words = vocabulary(len(_IDS))
    benign = [word for language in LANGUAGES for word in words[language].benign]
    telling = [w for language in LANGUAGES for some in words[language].telling for w in some]
    assert len(set(benign + telling)) == len(benign + telling)


def test_keywords_are_the_words_of_the_world() -> None:
    told = read_policies(_POLICIES).policies
    words = vocabulary(len(told))
    for column, policy in enumerate(told):
        assert set(policy.keywords) == {
            word for language in LANGUAGES for word in words[language].telling[column]
        }


def test_tiers_open_at_more_than_the_contract_certifies() -> None:
    contract = read_contract(Path("policies/release.yaml").read_text())
    for policy in read_policies(_POLICIES).policies:
        assert policy.tiers.block.precision > contract.gate("tier-block").limit
        assert policy.tiers.suspend.precision > contract.gate("tier-suspend").limit


def test_the_feature_store_counts_all_of_the_world(tmp_path: Path) -> None:
    """A world of the future would be refused: then nothing would be known of any seller."""
    rows = _rows(tmp_path)
    assert letters_of(place_of(Home(tmp_path))).counts() == {}
    uploads = FEATURE_NAMES.index("submissions_30d")
    assert any(row.behaviour_F is not None and row.behaviour_F[uploads] > 3 for row in rows)
