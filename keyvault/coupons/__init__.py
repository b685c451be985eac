"""Coupons of scheme ``signed``: one-time signatures of meters, announced in signed lists, spent once each."""
