"""The pipeline step `skew`."""
