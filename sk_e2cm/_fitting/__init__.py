"""From data to heads: what one pass adds up, and the closed forms that follow."""
