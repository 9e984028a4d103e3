"""The pipeline step `train`."""
