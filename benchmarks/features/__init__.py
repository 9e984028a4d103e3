"""The feature store: online reads, the stream, the join of history, and whether the two agree."""
