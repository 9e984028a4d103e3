"""Which policies the two bundles have heads for: a head that is not there gives no column, so no gate would miss it."""

from collections.abc import Sequence

from moderation.errors import PermanentError


def require_heads(digest: str, heads: Sequence[str], policies: Sequence[str]) -> None:
    """Refuse a candidate without the head of a policy that is in force.

    Args:
        digest: of the candidate.
        heads: policies that it answers under.
        policies: of the policy file.

    Raises:
        PermanentError: naming the policies that nothing would be judged under.
    """
    lacking = [policy for policy in policies if policy not in heads]
    if lacking:
        raise PermanentError(
            f"bundle {digest[:12]} has no head for {', '.join(lacking)}, so nothing would be judged there; train it "
            "with this policy file, or take what is retired out of the file"
        )


def retired(heads: Sequence[str], champion: Sequence[str]) -> dict[str, str]:
    """Return what nothing is compared in any more -> why: policies that the champion alone has a head for.

    Args:
        heads: policies that the candidate answers under: those in force at least.
        champion: policies that the champion answers under.
    """
    return {
        f"comparison under {policy}": "the policy file retired it, and the candidate has no head for it"
        for policy in champion
        if policy not in heads
    }
