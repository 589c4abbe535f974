"""The error for mistakes of the user."""


class MagratheaError(ValueError):
    """A mistake in what was asked or given; its one-line message names the thing, what is wrong, and what to do."""
