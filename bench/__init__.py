"""The benchmark: the head-end against bare loops, against row-by-row Django, and as it grows (docs/benchmark.md)."""
