"""A mask authority: a program of its own, run by somebody else than the head-end's owner (docs/operations/masked.md).

It shares the pure modules of ``keyvault`` with the head-end, and neither database, secrets nor settings.
"""
