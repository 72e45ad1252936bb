"""The core of fedhelp-secure: what every role shares. No torch, no server or client code."""

import os

TLS12_CIPHER_SUITES = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
"""All that a connection by TLS 1.2 may use: forward secrecy and authenticated encryption. TLS 1.3
has nothing else. The RSA ones are for certificates of another authority."""

# gRPC reads it when it makes its first credentials, and has no other way to be told. Here, because
# whatever imports gRPC imports this first; what the environment says otherwise does not count.
os.environ["GRPC_SSL_CIPHER_SUITES"] = ":".join(TLS12_CIPHER_SUITES)
