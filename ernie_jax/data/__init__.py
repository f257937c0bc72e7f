"""Data: files to records (TFDS), records to packed rows, rows to batches (Grain)."""
