"""Frames that were refused: kinds, evidence, counts, acknowledgement."""
