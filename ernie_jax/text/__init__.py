"""Text: files to read, and the tokenizer that turns any string into ids and back."""
