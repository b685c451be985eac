"""What a laboratory meter does with commands, right and wrong ones, compared with docs/frame.md: manage.py conform."""
