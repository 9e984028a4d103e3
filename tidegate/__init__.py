"""The `tidegate` command, on top of everything."""
