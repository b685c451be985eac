"""Enrolment of meters by certificate: device keys that an authority vouches for (docs/schemes.md)."""
