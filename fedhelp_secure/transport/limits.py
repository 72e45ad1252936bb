"""What both ends of a connection hold to (message size, keepalive), and a server's own limits.

Names and defaults of the options: gRPC's ``include/grpc/impl/channel_arg_names.h``.
"""

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

HANDSHAKE_MILLISECONDS = 10_000
"""From a connection's first byte until TLS and the HTTP/2 preface are done (gRPC's default: two
minutes)."""

IDLE_MILLISECONDS = 120_000
"""A connection without a call is closed after so long (default: never). Clients open another one
when they need it."""

STREAMS_A_CONNECTION = 64
METADATA_BYTES = 8 * 1024
"""Of a call's headers: from here on gRPC refuses some, from twice of it all."""

SERVER_LIMITS: tuple[tuple[str, int], ...] = (
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
    ("grpc.max_connection_idle_ms", IDLE_MILLISECONDS),
    ("grpc.max_concurrent_streams", STREAMS_A_CONNECTION),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES),
    # No statistics about peers are kept that a debug service could show.
    ("grpc.enable_channelz", 0),
)
