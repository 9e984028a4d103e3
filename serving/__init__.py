"""Serving: the predictor that scores listings and the gateway that decides about uploads."""
