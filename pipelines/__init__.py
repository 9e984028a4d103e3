"""Wiring of the pipeline steps: what runs, in which order, on which machine."""
