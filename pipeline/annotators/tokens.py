"""From a request to the token ids of its prompt, for annotators that run the model themselves."""

import hashlib
import json
from typing import Any

from jinja2 import TemplateError

from pipeline.annotators import Request
from pipeline.annotators.cutting import Cutter
from pipeline.errors import UserError
from pipeline.prompts import Template

Tokens = list[int]


def prompt_key(model: str, decoding: str, template: Template, request: Request) -> str:
    """What the store finds an answer by: a hash of model, decoding and messages."""
    rules, messages = [model, decoding, template.hash], template.messages_as_json(request.text, request.variant)
    return hashlib.sha256(f"{json.dumps(rules)[:-1]}, {messages}]".encode()).hexdigest()


def prompt_tokens(tokenizer: Any, template: Template, request: Request, cutter: Cutter) -> tuple[Tokens, bool]:  # noqa: ANN401
    """Token ids of the prompt with all its special tokens, and whether the text was cut.

    Args:
        tokenizer: of transformers; a chat goes through its own template.
        template: the rules.
        request: the text, and its variant where it has one.
        cutter: cuts the text.

    Raises:
        UserError: the tokenizer has no chat template, or that one refuses the messages.
    """
    text, cut = cutter(request.text)
    variant = cutter.variant(request.variant)
    if template.style == "completion":
        tokens: Tokens = tokenizer(template.completion(text, variant)).input_ids
        # A prompt without any token (no text, nothing around it) is the start of a document.
        return tokens or [tokenizer.eos_token_id], cut
    messages = template.messages(text, variant)
    try:
        chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (ValueError, TemplateError) as error:
        raise UserError(
            f"the chat template of '{tokenizer.name_or_path}' refuses the prompt ({str(error)[:200]}): mend "
            "annotate.prompt, or use the style completion"
        ) from error
    tokens = tokenizer(chat, add_special_tokens=False).input_ids
    return tokens, cut
