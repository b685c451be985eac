"""Backup and restore of the database with its own programs, and what belongs to it: manifest, journal, drill."""
