"""The database backend: Django's for PostgreSQL; a commit that a standby should have and has not is an error."""
