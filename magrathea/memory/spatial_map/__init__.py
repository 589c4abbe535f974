"""A map of the tokens that were seen at each location, with the pose found from how the picture moves."""
