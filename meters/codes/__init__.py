"""What registers, events and qualities are called outside: shipped tables (pure), which a site may override."""
