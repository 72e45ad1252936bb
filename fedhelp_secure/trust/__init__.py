"""Whom this party trusts: the federation's authorities, and who is out."""
