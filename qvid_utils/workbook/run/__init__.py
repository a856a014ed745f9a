"""From a cell to answers and records."""
