"""What trained models do inside, as tables and figures."""
