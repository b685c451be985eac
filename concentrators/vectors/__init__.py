"""Test vectors for makers of meters and concentrators: ``docs/vectors.json``, made by the product's own sealing.

A module for each kind of vectors, a line in ``document.MAKERS``; docs/vectors.md says what the fields mean. They are
deterministic: nothing in them depends on when, where or how often they are made.
"""
