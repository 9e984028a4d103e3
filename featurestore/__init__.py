"""Sellers' activity in Feast: a stream writes it, training reads its history, serving its newest rows."""

from featurestore.lean import lighten_feast

lighten_feast()
