"""Engines side by side on the same towers."""
