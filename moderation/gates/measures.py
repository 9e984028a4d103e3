"""Every measure that a contract may name: importing this module registers them."""

from moderation.gates import quality

__all__ = ["quality"]
