"""A map of what was seen where, found from how the picture moves."""
