"""Sign-in to the console: passwords, the second factor, lock-out, sessions and their journal."""
