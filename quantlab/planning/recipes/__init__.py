"""A plan in the words of other tools."""
