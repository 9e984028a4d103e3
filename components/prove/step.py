"""Candidate and champion -> evidence: everything that the gates may read, taken on the same rows in the same run.

A part that cannot be taken takes no other down and is never left out silently: it is named with the reason and what
to do, and whatever gate needs it has no data and blocks.
"""

from pathlib import Path

from components.contract import read_contract
from components.policies import read_policies
from components.prove.proof import Proof, ProveInputs
from components.prove.shared import Shared
from moderation.clock import Clock

__all__ = ["ProveInputs", "run"]


def run(
    inputs: ProveInputs,
    contract: str,
    policies: str,
    seed: int,
    *,
    out: str,
    clock: Clock | None = None,
    shared: Shared | None = None,
) -> dict[str, float]:
    """Write the evidence to the folder `out`; return how many rows and attacks it holds, and what it cost.

    What the candidate gets wrong only under attack is written to the home's hard examples, for people to look at.

    Args:
        inputs: folders.
        contract: text of the release contract.
        policies: text of the policy file.
        seed: draws the listings that are attacked.
        out: folder.
        clock: dates the look at the golden set.
        shared: what proofs of other candidates in this process took already; None: nothing.

    Raises:
        BundleRejected: if a bundle is altered: then nothing can be said of it.
        InvalidSnapshot: if the table is no snapshot.
        PolicyError: if contract or policies do not load.
        TemporaryError: if ledger or store cannot be read now.
    """
    proof = Proof.open(
        inputs, read_contract(contract), read_policies(policies), seed, clock, shared
    )
    proof.take_golden()
    proof.take_traffic()
    proof.take_fresh()
    proof.take_replay()
    proof.take_attacks()
    proof.take_leaks()
    proof.take_costs()
    evidence = proof.evidence()
    proof.export_hard_examples(evidence)
    evidence.save(Path(out))
    return proof.counts(evidence)
