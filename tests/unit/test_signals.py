"""The table of signals: patterns of modalities, roles, and its file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from moderation.decision import SIGNALS
from moderation.errors import InvalidSnapshot
from moderation.signals import BEHAVIOUR, IMAGE, MISSING, OK, TEXT, SignalTable, as_words

N, P = 4, 2
FUSION, IMAGE_MEMBER, TEXT_MEMBER, NGRAM, BEHAVIOUR_MEMBER = range(len(SIGNALS))


@pytest.fixture
def table() -> SignalTable:
    """Return rows with everything, without image, without text, and without anything."""
    columns = {
        name: np.full((N, P), float(value))
        for value, name in enumerate(
            ("image", "text", "ngram", "behaviour", "fusion_both", "fusion_image", "fusion_text")
        )
    }
    for name in ("image", "fusion_both", "fusion_image"):
        columns[name][[1, 3]] = np.nan
    for name in ("text", "ngram", "fusion_both", "fusion_text"):
        columns[name][[2, 3]] = np.nan
    columns["behaviour"][3] = np.nan
    return SignalTable(
        policies=("weapons", "spam"),
        submission_id=as_words(["a", "b", "c", "d"]),
        role=as_words(["train", "train", "meta", "test"]),
        fold=np.array([-1, 0, -1, -1]),
        group=np.array([1, 1, 2, 3]),
        weight=np.array([1.0, 2.0, 1.0, 1.0]),
        truth_NP=np.array([[1, 0], [0, -1], [0, 0], [1, 1]], np.int8),
        num_images=np.array([1, 0, 2, 0]),
        slices={"language": as_words(["en", "de", "en", "fr"])},
        **{f"{name}_NP": values for name, values in columns.items()},
    )


def test_available_names_each_rows_modalities(table: SignalTable) -> None:
    assert table.available().tolist() == [7, TEXT | BEHAVIOUR, IMAGE | BEHAVIOUR, 0]


def test_pattern_takes_richer_rows_with_the_rest_withheld(table: SignalTable) -> None:
    signals_RPM, status_RPM, rows = table.pattern(IMAGE)
    assert rows.tolist() == [0, 2]
    assert status_RPM[0, 0].tolist() == [OK, OK, MISSING, MISSING, MISSING]
    assert signals_RPM[0, 0, FUSION] == 5.0  # fusion with the text withheld
    assert signals_RPM[0, 0, IMAGE_MEMBER] == 0.0


def test_pattern_of_text_uses_fusion_without_images(table: SignalTable) -> None:
    signals_RPM, _, rows = table.pattern(TEXT)
    assert rows.tolist() == [0, 1]
    assert signals_RPM[0, 0, [FUSION, TEXT_MEMBER, NGRAM]].tolist() == [6.0, 1.0, 2.0]


def test_pattern_of_behaviour_leaves_fusion_out(table: SignalTable) -> None:
    signals_RPM, status_RPM, rows = table.pattern(BEHAVIOUR)
    assert rows.tolist() == [0, 1, 2]
    assert (status_RPM[..., FUSION] == MISSING).all()
    assert (signals_RPM[..., BEHAVIOUR_MEMBER] == 3.0).all()


def test_natural_gives_each_row_what_it_has(table: SignalTable) -> None:
    signals_NPM, status_NPM = table.natural()
    assert signals_NPM[:3, 0, FUSION].tolist() == [4.0, 6.0, 5.0]
    assert (status_NPM[3] == MISSING).all()


def test_select_leaves_out_train_rows_without_a_score(table: SignalTable) -> None:
    assert table.select("train", "meta").submission_id.tolist() == ["b", "c"]


def test_take_keeps_every_column_aligned(table: SignalTable) -> None:
    taken = table.take(np.array([2, 0]))
    assert taken.submission_id.tolist() == ["c", "a"]
    assert taken.slices["language"].tolist() == ["en", "en"]
    assert taken.num_images.tolist() == [2, 1]


def test_table_survives_a_round_trip(table: SignalTable, tmp_path: Path) -> None:
    table.save(tmp_path / "signals.npz")
    loaded = SignalTable.load(tmp_path / "signals.npz")
    assert loaded.policies == table.policies
    for name in ("truth_NP", "fusion_both_NP", "weight", "role"):
        assert_array_equal(getattr(loaded, name), getattr(table, name))
    assert_array_equal(loaded.slices["language"], table.slices["language"])


def test_same_table_gives_the_same_bytes(table: SignalTable, tmp_path: Path) -> None:
    table.save(tmp_path / "a.npz")
    table.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_load_refuses_a_truncated_file(table: SignalTable, tmp_path: Path) -> None:
    path = tmp_path / "signals.npz"
    table.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidSnapshot, match="no readable table"):
        SignalTable.load(path)


def test_load_names_a_missing_column(table: SignalTable, tmp_path: Path) -> None:
    path = tmp_path / "signals.npz"
    table.save(path)
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "weight"}
    with path.open("wb") as file:
        np.savez(file, **kept)
    with pytest.raises(InvalidSnapshot, match="columns are missing: weight"):
        SignalTable.load(path)


def test_table_refuses_a_weight_of_zero(table: SignalTable) -> None:
    with pytest.raises(InvalidSnapshot, match="weight must be positive"):
        replace(table, weight=np.zeros(N))


def test_table_refuses_a_wrong_shape(table: SignalTable) -> None:
    with pytest.raises(InvalidSnapshot, match="image_NP has shape"):
        replace(table, image_NP=np.zeros((N, 5)))


def test_table_refuses_a_short_slice(table: SignalTable) -> None:
    with pytest.raises(InvalidSnapshot, match="slice language"):
        replace(table, slices={"language": as_words(["en"])})
