"""Numbers translated from German to English words by a Transformer, in three frameworks."""
