"""The secure sum: exact integer sums of releases that nobody but the recipients can read.

DESIGN section 5. The layers, each usable alone: `fixed_point` (reals to integers), `ring` and
`packing` (integers modulo 2**b, several in one), `masks` (one-time masks from seeds),
`authenticator` (what shows an altered sum), `residues` and `ckks` (ciphertexts, their addition,
encryption), `plan` (parameters), `cohort`, `epochs` and `round_keys` (which keys of the custodians
a round is under), `contribution` (what a hospital sends), `answers` (what the custodians send
back), `opening` (what a recipient makes of it). Long vectors go through all of them frame by frame.
"""
