"""What a predictor answers over REST to a request that it does not take."""

import math
from typing import Final

from kserve.errors import InvalidInput, ModelNotFound

from serving.predictor.asgi import Answer, error_answer
from serving.predictor.bodies import TooLarge, TooSlow
from serving.predictor.terms import Overloaded, TooLate

REFUSALS: Final = (Overloaded, TooLate, InvalidInput, ModelNotFound)


def refusal(error: Exception, smaller: str) -> Answer:
    """Return the answer to one of `REFUSALS`.

    Args:
        error: why it is not taken.
        smaller: what to do about a body that is too large.
    """
    match error:
        case Overloaded():
            return error_answer(503, error, {"retry-after": str(math.ceil(error.delay_s))})
        case TooLate():
            return error_answer(504, error)
        case TooLarge():
            return error_answer(413, f"{error}; {smaller}", {"connection": "close"})
        case TooSlow():
            return error_answer(408, error, {"connection": "close"})
        case ModelNotFound():
            return error_answer(404, error)
        case _:
            return error_answer(400, error)
