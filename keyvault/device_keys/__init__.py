"""Device keys: how they come, live, are counted and leave."""
