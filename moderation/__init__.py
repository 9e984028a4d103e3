"""The domain: from a listing to a decision. Pure Python, numpy and torch; no platform SDK is imported here."""
