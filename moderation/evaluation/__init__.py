"""Metrics, baselines and the report on a candidate; reads signals and probabilities, fits nothing."""
