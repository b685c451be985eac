"""Masked values: meters hide each value, and authorities tell the sum of the masks of many (docs/schemes.md). Pure.

After G. Danezis, C. Fournet, M. Kohlweiss, S. Zanella-Beguelin: Smart meter aggregation via secret-sharing (2013).
Meters, mask authorities and the head-end share these modules, and no other.
"""
