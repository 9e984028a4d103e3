"""The pipeline step `tune`."""
