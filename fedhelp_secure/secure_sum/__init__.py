"""The secure sum: exact integer sums of releases that nobody but the recipients can read.

DESIGN section 5. The layers, each usable alone: `fixed_point` (reals to integers), `ring` (integers
modulo 2**b), `masks` (one-time masks from seeds), `framing` and `ckks` (encryption and addition),
`cohort`, `contribution` (what a hospital sends), `answers` (what the custodians send back).
"""
