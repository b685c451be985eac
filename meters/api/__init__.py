"""REST doors of meters."""
