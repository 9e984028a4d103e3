"""The pipeline step `calibrate`."""
