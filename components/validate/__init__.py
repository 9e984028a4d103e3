"""The pipeline step `validate`."""
