"""Version 1 of the wire contract, generated from proto/fedhelp_secure/wire/v1."""
