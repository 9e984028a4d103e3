"""The pipeline step `evaluate`."""
