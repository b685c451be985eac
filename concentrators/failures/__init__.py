"""Frames that were rejected: their kinds, evidence, counts and acknowledgement.

``kinds`` names the reasons and ``explanations`` says what each means to a person. ``record`` stores evidence, up to a
cap per hour, and counts the rest in hourly tallies, which ``tallies`` reads in pages. Groups (failures by meter and
kind) are counted by triggers of the tables (``concentrators/migrations/_triggers.py``), and ``queries`` reads them.
"""
