"""What a machine lacks."""


class Missing(Exception):
    """The checks cannot begin. `hint` says what to do."""

    def __init__(self, message, hint):
        super().__init__(message)
        self.hint = hint
