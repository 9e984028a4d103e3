"""What the predictor counts about its queue."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

REQUESTS: Final = Counter(
    "tidegate_predictor_requests_total", "Requests to the predictor by their end.", ["status"]
)
DEPTH: Final = Gauge(
    "tidegate_predictor_queue_listings", "Listings that wait, not yet in a batch.", ["priority"]
)
DEPTH_BYTES: Final = Gauge(
    "tidegate_predictor_queue_bytes", "Size of the listings that wait.", ["priority"]
)
HELD_BYTES: Final = Gauge(
    "tidegate_predictor_held_bytes",
    "Size of the requests in hand: on their way, waiting or scored.",
)
BATCH_LISTINGS: Final = Histogram(
    "tidegate_predictor_batch_listings",
    "Listings of one batch.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024),
)
BATCH_SECONDS: Final = Histogram(
    "tidegate_predictor_batch_seconds", "Time of one batch in the models.", buckets=_SECONDS
)
WAIT_SECONDS: Final = Histogram(
    "tidegate_predictor_wait_seconds",
    "Time from a listing's arrival to its batch, preparation included.",
    ["priority"],
    buckets=_SECONDS,
)
DROPPED: Final = Counter(
    "tidegate_predictor_dropped_listings_total",
    "Listings that were not computed: refused (no room), late (deadline), cancelled (caller gone).",
    ["priority", "reason"],
)
RETRIED: Final = Counter(
    "tidegate_predictor_retried_batches_total",
    "Batches that failed and were run again listing by listing.",
)
PREPARERS_ENDED: Final = Counter(
    "tidegate_predictor_preparers_ended_total",
    "Processes that prepare listings and ended by themselves; another took the place of each.",
)
