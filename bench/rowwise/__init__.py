"""The same job row by row, one frame a request through serializer and ORM, as many Django projects would do it.

Never part of the product: it exists to be compared with.
"""
