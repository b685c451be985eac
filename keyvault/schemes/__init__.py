"""Schemes: how meters may protect their readings. Key sources and envelopes are small modules, each a line of a table.

A scheme is an allowed triple of a key source, an envelope and a content (``meters/contents``). ``lines`` says what a
line has, ``table`` has the lines. Opening, counters and storing know the tables, but no single member (docs/adr/0029).
Pure.
"""
