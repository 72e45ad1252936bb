"""Registrar and custodians."""
