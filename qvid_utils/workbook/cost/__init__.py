"""Time and memory of pruned and unpruned runs, side by side; see `python -m qvid_utils measure`.

Every number is a median over rounds, and a round runs all cells once: a machine that slows down
slows them all. Ratios are taken within a round, so that they outlast such a drift.
"""
