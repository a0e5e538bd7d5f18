# SPDX-License-Identifier: Apache-2.0
"""
The messages of etcd's gRPC interface, as far as they are needed here.

They are described below by names, numbers and types, as in etcd's ``rpc.proto`` and ``kv.proto``, and made by the
protobuf library when this is imported. So there is no generated code, which would bind the library to versions of
protobuf. Fields that are not named are passed over when they come.

Reference: https://github.com/etcd-io/etcd/blob/main/api/etcdserverpb/rpc.proto
"""

from __future__ import annotations

from typing import Any, NamedTuple

try:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(f"{missing}; install wal[etcd]", name=missing.name) from missing

__all__ = [
    "AUTHENTICATE",
    "COMPACT",
    "RANGE",
    "STATUS",
    "TXN",
    "WATCH",
    "Call",
    "compare_mod",
    "delete_op",
    "put_op",
    "range_op",
    "range_request",
]

_PACKAGE = "wal.etcd"
_BOOL, _BYTES, _INT, _STRING, _UINT = (
    FieldDescriptorProto.TYPE_BOOL,
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_INT64,  # an enumeration is the same on the wire
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_UINT64,
)

# A type is one of the above, or the name of a message; in a list if the field is repeated. "|" before a field's name:
# it is one of those of which only one is there.
_MESSAGES: dict[str, dict[str, tuple[int, Any]]] = {
    "ResponseHeader": {"revision": (3, _INT)},
    "KeyValue": {
        "key": (1, _BYTES),
        "create_revision": (2, _INT),
        "mod_revision": (3, _INT),
        "version": (4, _INT),
        "value": (5, _BYTES),
    },
    "RangeRequest": {
        "key": (1, _BYTES),
        "range_end": (2, _BYTES),
        "limit": (3, _INT),
        "revision": (4, _INT),
        "sort_order": (5, _INT),
        "keys_only": (8, _BOOL),
    },
    "RangeResponse": {"header": (1, "ResponseHeader"), "kvs": (2, ["KeyValue"]), "more": (3, _BOOL)},
    "PutRequest": {"key": (1, _BYTES), "value": (2, _BYTES)},
    "PutResponse": {"header": (1, "ResponseHeader")},
    "DeleteRangeRequest": {"key": (1, _BYTES), "range_end": (2, _BYTES)},
    "DeleteRangeResponse": {"header": (1, "ResponseHeader"), "deleted": (2, _INT)},
    "RequestOp": {
        "|request_range": (1, "RangeRequest"),
        "|request_put": (2, "PutRequest"),
        "|request_delete_range": (3, "DeleteRangeRequest"),
    },
    "ResponseOp": {
        "|response_range": (1, "RangeResponse"),
        "|response_put": (2, "PutResponse"),
        "|response_delete_range": (3, "DeleteRangeResponse"),
    },
    "Compare": {
        "result": (1, _INT),
        "target": (2, _INT),
        "key": (3, _BYTES),
        "|mod_revision": (6, _INT),
    },
    "TxnRequest": {"compare": (1, ["Compare"]), "success": (2, ["RequestOp"]), "failure": (3, ["RequestOp"])},
    "TxnResponse": {"header": (1, "ResponseHeader"), "succeeded": (2, _BOOL), "responses": (3, ["ResponseOp"])},
    "CompactionRequest": {"revision": (1, _INT)},
    "CompactionResponse": {"header": (1, "ResponseHeader")},
    "StatusRequest": {},
    "StatusResponse": {"header": (1, "ResponseHeader"), "version": (2, _STRING), "db_size": (3, _INT)},
    "WatchCreateRequest": {"key": (1, _BYTES), "range_end": (2, _BYTES), "start_revision": (3, _INT)},
    "WatchRequest": {"|create_request": (1, "WatchCreateRequest")},
    "Event": {"type": (1, _INT), "kv": (2, "KeyValue")},
    "WatchResponse": {
        "header": (1, "ResponseHeader"),
        "created": (3, _BOOL),
        "canceled": (4, _BOOL),
        "compact_revision": (5, _INT),
        "cancel_reason": (6, _STRING),
        "events": (11, ["Event"]),
    },
    "AuthenticateRequest": {"name": (1, _STRING), "password": (2, _STRING)},
    "AuthenticateResponse": {"header": (1, "ResponseHeader"), "token": (2, _STRING)},
}


def _describe() -> FileDescriptorProto:
    file = FileDescriptorProto(name="wal/etcd.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if any(field.startswith("|") for field in fields):
            message.oneof_decl.add(name="which")
        for field, (number, type) in fields.items():
            described = message.field.add(name=field.lstrip("|"), number=number)
            described.label = FieldDescriptorProto.LABEL_REPEATED if isinstance(type, list) else _OPTIONAL
            inner = type[0] if isinstance(type, list) else type
            if isinstance(inner, str):
                described.type, described.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{inner}"
            else:
                described.type = inner
            if field.startswith("|"):
                described.oneof_index = 0
    return file


_OPTIONAL = FieldDescriptorProto.LABEL_OPTIONAL
_pool = DescriptorPool()  # our own, since another library may have described the same messages
_pool.Add(_describe())


def _message(name: str) -> Any:
    return GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


class Call(NamedTuple):
    """A method of a member: its path, and the classes of what it takes and gives."""

    path: str
    request: Any
    response: Any


RANGE = Call("/etcdserverpb.KV/Range", _message("RangeRequest"), _message("RangeResponse"))
TXN = Call("/etcdserverpb.KV/Txn", _message("TxnRequest"), _message("TxnResponse"))
COMPACT = Call("/etcdserverpb.KV/Compact", _message("CompactionRequest"), _message("CompactionResponse"))
STATUS = Call("/etcdserverpb.Maintenance/Status", _message("StatusRequest"), _message("StatusResponse"))
WATCH = Call("/etcdserverpb.Watch/Watch", _message("WatchRequest"), _message("WatchResponse"))
AUTHENTICATE = Call(
    "/etcdserverpb.Auth/Authenticate", _message("AuthenticateRequest"), _message("AuthenticateResponse")
)

_Compare, _RequestOp = _message("Compare"), _message("RequestOp")
_MOD_REVISION = 2  # what is compared; the result asked for is 0, "equal"


def compare_mod(key: bytes, revision: int) -> Any:
    """Return the condition that a key was last changed at this revision; 0: that it is not there."""
    return _Compare(key=key, target=_MOD_REVISION, mod_revision=revision)


def put_op(key: bytes, value: bytes) -> Any:
    """Return the operation that puts a value."""
    return _RequestOp(request_put={"key": key, "value": value})


def range_op(key: bytes) -> Any:
    """Return the operation that reads one key."""
    return _RequestOp(request_range={"key": key})


def delete_op(key: bytes, end: bytes) -> Any:
    """Return the operation that deletes the keys from one up to, and without, another."""
    return _RequestOp(request_delete_range={"key": key, "range_end": end})


def range_request(
    key: bytes,
    end: bytes = b"",
    *,
    limit: int = 0,
    revision: int = 0,
    descending: bool = False,
    keys_only: bool = False,
) -> Any:
    """Return the request for one key, or for those up to, and without, ``end``, as they are at a revision."""
    return RANGE.request(
        key=key,
        range_end=end,
        limit=limit,
        revision=revision,
        sort_order=2 if descending else 0,
        keys_only=keys_only,
    )
