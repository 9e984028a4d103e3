"""The pipeline step `judge`."""
