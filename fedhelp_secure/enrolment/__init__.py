"""Joining a federation: the request a party makes, the bundle it gets back, and renewal."""
