"""What pages and REST doors share. Imported by doors only."""
