"""Tensors only, no model: leverage, cuts, selection, clustering, merging."""
