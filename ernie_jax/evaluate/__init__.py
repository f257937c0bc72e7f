"""Held-out loss of every member of the family, beside baselines: as a table, as JSON and as figures."""
