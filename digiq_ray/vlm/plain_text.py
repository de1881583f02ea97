"""Texts from outside as data: what a tokenizer would read as a control token is broken up before it is tokenised.

A task or a message that holds ``<image>`` or an end-of-turn marker could otherwise pose as the prompt's own structure.
"""

from __future__ import annotations

import re
from typing import Any


class PlainText:
    """Breaks up control tokens by a space after their first character.

    Args:
        tokenizer: Of the model: its special tokens are the control tokens.
        more: Further ones (the image marker of a processor).
    """

    def __init__(self, tokenizer: Any, more: tuple[str, ...] = ()) -> None:
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        tokens = {token for token in (*tokenizer.all_special_tokens, *added, *more) if len(token.strip()) > 1}
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        self._tokens = re.compile("|".join(re.escape(token) for token in longest_first)) if tokens else None

    def __call__(self, text: str) -> str:
        """``text`` without any control token in it."""
        while self._tokens is not None and self._tokens.search(text):
            text = self._tokens.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text
