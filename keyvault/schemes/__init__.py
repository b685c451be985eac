"""How meters may protect their readings: key sources and envelopes, each a small module and a line of a table. Pure.

A scheme is an allowed triple of a key source, an envelope and a content (``meters/contents``). ``table`` holds the
lines; opening, counters and storing know the tables and none of their members (docs/adr/0029).
"""
