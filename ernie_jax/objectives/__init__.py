"""Losses of each head, and how they are joined into one objective."""
