"""Code that pages and REST views share. Only doors import it."""
