"""What the gateway adds to a call of the predictor, as real processes."""
