"""The contents of payloads: each is a small module and a line of ``table``. Pure.

The scheme of a key says which content its frames have (``keyvault/schemes/table.py``).
"""
