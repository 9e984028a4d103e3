"""Tests, and the worlds and bundles that they share."""
