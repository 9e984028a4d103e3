"""The pipeline step `ingest`."""
