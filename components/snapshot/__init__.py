"""The pipeline step `snapshot`."""
