"""What the service is told by its environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from serving.errors import UserError
from serving.precisions import PrecisionName

PREFIX = "LLAMBERT_"
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    """One field for each variable, without its prefix and in small letters; see docs/serve.md."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = "export"
    precision: PrecisionName = "int8"
    runtime: Literal["auto", "onnxruntime", "openvino", "torch"] = "auto"
    threads: Positive | None = None
    max_batch_tokens: Positive = 8192
    max_queued_tokens: Positive = 131_072
    max_texts: Positive = 1024
    max_chars: Positive = 100_000
    max_body_bytes: Positive = 16 * 2**20
    token: SecretStr | None = None
    token_file: Path | None = None
    shadow_model: str | None = None
    poll_s: Seconds = 30.0
    cache: Path | None = None
    drain_s: Seconds = 30.0
    drift_window: Annotated[int, Field(ge=0)] = 1000

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables; one that is empty counts as not set.

        Raises:
            UserError: one has a value that makes no sense, or the file of the token can't be read.
        """
        names = {PREFIX + name.upper(): name for name in cls.model_fields}
        given = {names[name]: value for name, value in environment.items() if name in names and value}
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            lines = [
                f"  {PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']} (got {problem['input']})"
                for problem in error.errors(include_url=False)
            ]
            raise UserError("the environment is not valid:\n" + "\n".join(lines)) from None
        return settings.model_copy(update={"token": _token(settings)})


def _token(settings: Settings) -> SecretStr | None:
    if settings.token_file is None:
        return settings.token
    if settings.token is not None:
        raise UserError(f"{PREFIX}TOKEN and {PREFIX}TOKEN_FILE are both set: give one")
    try:
        token = settings.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{PREFIX}TOKEN_FILE: {settings.token_file} can't be read ({error})") from None
    if not token:  # an empty secret would leave the service open
        raise UserError(f"{PREFIX}TOKEN_FILE: {settings.token_file} is empty: put a token there, or unset it")
    return SecretStr(token)
