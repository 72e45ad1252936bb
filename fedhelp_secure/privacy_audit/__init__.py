"""The empirical audit: an adversary attacks the real pipeline and must not exceed the claims."""
