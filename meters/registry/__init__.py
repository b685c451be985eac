"""The meter registry: meters, places, files of them, and who looked."""
