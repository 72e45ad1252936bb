"""What both ends of a connection hold to: message size and keepalive."""

from __future__ import annotations

MESSAGE_BYTES = 4 * 1024 * 1024
"""The longest message in either direction; longer things go in chunks of 1 MiB."""

KEEPALIVE_MILLISECONDS = 30_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000

COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A peer that has vanished is noticed within a minute, also while a stream is quiet.
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.http2.max_pings_without_data", 0),
)
