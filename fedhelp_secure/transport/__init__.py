"""Mutual TLS, identities and the table of who may call what."""
