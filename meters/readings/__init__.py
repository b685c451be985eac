"""What meters say: codes, packs, values, and reading them back."""
