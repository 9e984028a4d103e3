"""What Feast writes online, read without Feast, whose import takes seconds and hundreds of megabytes.

Keys are Feast's entity keys of version 3, values its protobuf message `Value`. A contract test compares all of it with
Feast's own functions.
"""

import struct
from collections.abc import Mapping
from typing import Any, Final

import mmh3
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_STRING: Final = 2
"""`ValueType.STRING`."""

_TYPES: Final = descriptor_pb2.FieldDescriptorProto
_FIELDS: Final = {
    "bytes_val": (1, _TYPES.TYPE_BYTES),
    "int64_val": (4, _TYPES.TYPE_INT64),
    "double_val": (5, _TYPES.TYPE_DOUBLE),
}


def _value_class() -> Any:
    """Return the message `Value` with the kinds that our rows have; what is of another kind holds nothing."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tidegate_value.proto", package="tidegate", syntax="proto3"
    )
    message = file.message_type.add(name="Value")
    message.oneof_decl.add(name="val")
    for name, (number, kind) in _FIELDS.items():
        message.field.add(
            name=name, number=number, type=kind, label=_TYPES.LABEL_OPTIONAL, oneof_index=0
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tidegate.Value"))


Value: Final = _value_class()


def key_prefix(join_key: str) -> bytes:
    """Return the bytes of an entity key of one text up to the length of that text."""
    name = join_key.encode("utf-8")
    return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", _STRING)


def entity_key(prefix: bytes, text: str) -> bytes:
    """Return an entity key that begins with `key_prefix`."""
    data = text.encode("utf-8")
    return prefix + struct.pack("<I", len(data)) + data


def entity_key_of(keys: Mapping[str, str]) -> bytes:
    """Return the entity key of some texts by join key."""
    parts = [struct.pack("<I", len(keys))]
    names, texts = sorted(keys), [keys[name] for name in sorted(keys)]
    for text in (*names, *texts):
        data = text.encode("utf-8")
        parts.append(struct.pack("<II", _STRING, len(data)) + data)
    return b"".join(parts)


def redis_field(view: str, column: str) -> bytes:
    """Return the field of a Redis hash in which Feast keeps one column of a view."""
    return struct.pack("<I", mmh3.hash(f"{view}:{column}", signed=False))
