"""The custodians: the decryptor (A) sees masked sums only, each unmasker (B) its own seeds only.

Each binds a round to its present key epoch when it begins, answers once for a (charter, round),
stores its answer before it leaves, and seals it to the hospitals of the charter. None trusts the
aggregator that calls it: charters are verified with the governance key of the custodian's own
state.
"""
