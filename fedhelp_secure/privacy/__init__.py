"""Patient-level differential privacy: mechanism, noise, accounting, ledger (DESIGN section 6)."""
