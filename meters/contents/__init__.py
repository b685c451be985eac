"""What payloads may be: each content a small module and a line of ``table``. Pure.

Which content the frames of a key have is said by the key's scheme (``keyvault/schemes/table.py``).
"""
