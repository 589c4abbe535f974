"""The one error that a person using Magrathea can cause."""


class MagratheaError(ValueError):
    """A mistake in what was asked or given; its message is one line that says what to do."""
