"""Each peer as a server of the same bundle, started by its own environment."""
