"""Failures, drawn once for both halves (`serving` must not import `pipeline`, so the class lives there).

Exception
└── UserError     one message, exit code 2, no traceback
"""

from serving.errors import UserError

__all__ = ["UserError"]
