"""Exact sums that no single party can read (DESIGN section 5)."""
