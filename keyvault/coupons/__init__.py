"""Signed readings: one-time signatures of meters. A meter announces coupons in signed lists, and spends each once.

``verifying`` verifies signatures and lists against the announced coupons; ``forms`` parses them, and ``chameleon`` is
the arithmetic. ``store`` reads and writes the coupons of a batch. ``identities`` registers the keys that sign lists;
``evidence`` collects what proves a signature to others.
"""
