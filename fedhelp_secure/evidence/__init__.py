"""Evidence: Merkle log, checkpoints, receipts, bundles and their verifier (DESIGN section 8)."""
