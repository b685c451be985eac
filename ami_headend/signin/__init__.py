"""Who signs in to the console, and how: passwords, the second factor, lock-out, sessions and their journal."""
