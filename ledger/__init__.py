"""Append-only events and the content-addressed store of inputs: what happened, replayable for ever."""
