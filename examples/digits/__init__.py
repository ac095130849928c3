"""Handwritten digits: an MLP, the gated attention cell beside it, and a sequence classifier, in three frameworks."""
