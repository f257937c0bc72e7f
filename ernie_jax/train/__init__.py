"""Training: one loop for every stage, and what it needs around it."""
