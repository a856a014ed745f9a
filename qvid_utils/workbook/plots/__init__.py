"""One function per figure, one style."""
