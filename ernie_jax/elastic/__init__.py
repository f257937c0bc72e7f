"""The elastic family: naming members, sampling them while training, slicing one out of a checkpoint."""
