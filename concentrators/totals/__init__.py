"""Totals of intervals, and their completeness.

``totals`` adds readings to interval totals and recomputes these; ``expected`` counts the intervals that should have
come, and ``completeness`` compares both. ``reported_sums`` compares ours with those that concentrators report.

``read_success`` keeps how many of them had arrived by each deadline (``read_deadlines``), ``success_tables`` are its
rows by concentrator and group, and ``meter_success`` counts the same for one meter.

Masked values have totals of their own. ``masked_sets`` chooses the values that are added up, and computes the total
when every mask authority has answered. ``mask_collector`` asks the authorities, through ``mask_client``, until they
answer. ``masked_queries`` reads the results.
"""
