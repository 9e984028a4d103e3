"""The pipeline step `resolve`."""
