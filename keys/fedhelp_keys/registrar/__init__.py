"""The registrar: the federation's certificate authority, its registry and its charters."""
