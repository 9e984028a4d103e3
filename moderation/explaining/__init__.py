"""Explains one score of one bundle, by its own gradients and its own sums; torch lives here."""
