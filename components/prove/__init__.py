"""The pipeline step `prove`."""
