"""The predictor beside other model servers around the same bundle, and the bare engine as the limit."""
