"""The same job row by row, one frame in each request through serializer and ORM, as many Django projects would do it.

Never part of the product: it exists for comparison only.
"""
