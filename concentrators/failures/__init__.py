"""Frames that were rejected: kinds, evidence, counts, acknowledgement."""
