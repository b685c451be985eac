"""How times and numbers are written: one way, whatever the language of the browser."""
