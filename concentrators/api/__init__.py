"""REST doors of concentrators."""
