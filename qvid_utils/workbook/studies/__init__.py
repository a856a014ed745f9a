"""One module per notebook."""
