"""Appends to the ledger by many callers at once: in groups, and each for itself."""
