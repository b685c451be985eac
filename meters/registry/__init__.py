"""The meter registry: meters and places, their import from tables, search, and the record of access to them."""
