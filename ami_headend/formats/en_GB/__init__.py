"""British English, but with times as ISO 8601 writes them: sortable, 24 hours, with seconds."""
