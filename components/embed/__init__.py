"""The pipeline step `embed`."""
