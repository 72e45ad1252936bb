"""What both ends of a connection hold to: message size and keepalive."""

from __future__ import annotations

MESSAGE_BYTES = 4 * 1024 * 1024
"""The longest message in either direction; longer things go in chunks of 1 MiB."""

WINDOW_BYTES = 1024 * 1024
"""Flow-control window of a stream: 20 MiB a second at 50 ms of round trip."""

KEEPALIVE_MILLISECONDS = 30_000
KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000

COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # What may be under way to us without having been asked for. gRPC's own guess grows with the
    # length of a stream, and was most of an aggregator's memory.
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    ("grpc.http2.bdp_probe", 0),
    # A peer that has vanished is noticed within a minute, also while a stream is quiet.
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.http2.max_pings_without_data", 0),
)
