"""Aggregator, broker and the stand-in foundation-model server. No torch."""
