"""The one kind of failure that a person can mend.

    Exception
    └── UserError     shown as one message, exit code 2, no traceback

Everything else is a bug of ours and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in the user's input, params or machine. The message says what, where, and what to do."""
