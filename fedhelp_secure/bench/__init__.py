"""``fedhelp bench``: what the secure sum costs, beside the same sum without it and beside others.

Every figure comes from real parts on this machine in one run: the product's own code for ours, and
TenSEAL driven the way NVFlare's defaults drive it for the comparison.
"""
