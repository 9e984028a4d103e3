"""The evidence pack: what a person reads before a candidate is released, and the same for machines."""

from moderation.pack.record import PackRecord, load_record
from moderation.pack.writing import Pack, write_pack

__all__ = ["Pack", "PackRecord", "load_record", "write_pack"]
