"""Vision: the tokenizer with its multi-scale bit quantizer, and the understanding path."""
