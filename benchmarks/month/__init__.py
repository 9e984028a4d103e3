"""The simulated test month: what fusion and the ensemble add over single modalities."""
