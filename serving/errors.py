"""The failures that a person or time can mend.

    Exception
    └── UserError           shown as one message, exit code 2, no traceback
        └── Unreachable     likewise, exit code 75 (EX_TEMPFAIL of sysexits.h): the same command may do later

Everything else is a bug of ours and keeps its traceback.
"""

import os
from typing import ClassVar


class UserError(Exception):
    """A mistake in the user's input, params or machine. The message says what, where, and what to do."""

    exit_code: ClassVar[int] = 2


class Unreachable(UserError):  # noqa: N818 - as in "the registry is unreachable"
    """A place does not answer, or not now: no mistake, and worth another try."""

    exit_code: ClassVar[int] = os.EX_TEMPFAIL
