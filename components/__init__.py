"""One folder per pipeline step: a thin wrapper around the domain; nothing here decides anything."""
