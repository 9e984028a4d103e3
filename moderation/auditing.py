"""The draw of a random audit: a keyed hash, which nobody can tell beforehand without the key."""

import hashlib
import hmac


def is_drawn(submission_id: str, probability: float, salt: bytes) -> bool:
    """Return whether a submission is drawn; the same one always is or is not.

    Whoever is drawn at some probability is drawn at every higher one.

    Args:
        submission_id: may come from a caller, who does not know the salt.
        probability: from 0 to 1, to within 2^-48.
        salt: secret.
    """
    digest = hmac.new(salt, submission_id.encode("utf-8"), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") < probability * 2**48
