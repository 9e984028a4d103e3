"""Recorded traffic in a proof: decisions of the candidate itself are no evidence about it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from components.contract import read_contract
from components.policies import read_policies
from components.prove import proof
from components.prove.replayed import Recorded, recorded_rows
from tests.prove_world import (
    LATER,
    POLICIES_TEXT,
    decide,
    prove_world,
    record,
    renamed,
    small_contract,
)
from tests.tiny_bundle import SEED, TinyRun
from tests.toy import toy_world


def test_own_decisions_taken_again_show_nothing(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prove_world(tmp_path, tiny)
    traffic = renamed(toy_world(24, seed=55), "fresh-", LATER)
    record(world.home, traffic, known_after=timedelta(hours=2))
    decide(world.home, traffic, probability=0.1)
    taken_by = "e" * 64

    def retold(*args: Any) -> Recorded:
        found = recorded_rows(*args)
        return replace(found, answers=replace(found.answers, bundle=taken_by))

    monkeypatch.setattr(proof, "recorded_rows", retold)
    contract, policies = read_contract(small_contract()), read_policies(POLICIES_TEXT)
    other = proof.Proof.open(world.inputs(), contract, policies, SEED)
    other.take_replay()
    assert set(other.sets) == {"replay"}
    taken_by = world.candidate.digest
    own = proof.Proof.open(world.inputs(), contract, policies, SEED)
    own.take_replay()
    assert not own.sets
    assert "the candidate's own: taken again they show nothing" in own.missing["replay"]
