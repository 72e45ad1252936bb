"""A breast ultrasound phantom: pictures that need no patient and no network.

It imitates B-mode pictures of the breast closely enough to exercise every part of a federation. It
is no model of disease: nothing learnt from it says anything about a patient.
"""
