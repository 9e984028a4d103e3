"""Whether a predictor may serve a bundle at all: only one whose record beside it passes the gates."""

import logging

from moderation.attestation import Attestation, require_passing
from moderation.bundle import Bundle

_LOG = logging.getLogger(__name__)


def admit(
    bundle: Bundle, contract: str, *, accepts: str, is_unattested: bool = False
) -> Attestation | None:
    """Return the attestation that lets a predictor serve `bundle`; None where none was asked for.

    What it was compared with is asked by `Registry.check_release`: a predictor knows no registry. Under the contract in
    force it must pass wherever it was judged under it; where it never was, its newest contract counts: a change of the
    contract takes nothing away from what serves, were it started anew on another node.

    Args:
        bundle: verified.
        contract: digest of the release contract in force; the log tells where the bundle was never judged under it.
        accepts: weakest profile whose pass counts; that of the standard one always does.
        is_unattested: serve it without a look at its record, and say so in the log.

    Raises:
        GateRejected: if its record holds no verdicts, or those that count do not pass; the message says what to run.
        BundleRejected: if the record was altered, or is about another bundle.
    """
    if is_unattested:
        _LOG.warning(
            "serving a bundle whatever the gates say of it: for tests and measurements, never for a marketplace",
            extra={"bundle": bundle.digest},
        )
        return None
    said = require_passing(bundle, contract, accepts=accepts, or_another=True)
    _LOG.info("attested", extra={"bundle": said.bundle, "attestation": said.digest})
    if said.contract != contract:
        _LOG.warning(
            "the gates passed this bundle under another contract than the one in force; judge it anew",
            extra={"bundle": said.bundle, "judged_under": said.contract, "in_force": contract},
        )
    return said
