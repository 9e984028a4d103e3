"""The pipeline step `register`."""
