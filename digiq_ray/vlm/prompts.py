"""What the VLM is asked. The screen, the task and the history come first, the question last.

So all questions about one state share a prefix, and its keys and values are computed once. A prompt is three texts:
the *prefix* (screen and task), and a *suffix*, which is one of: what to do (``act``), or whether an action would change
the screen (``change``; stage 1 trains it, and features are read from it).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

NO_HISTORY = "none"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Texts with ``{task}``, ``{history}`` and ``{action}`` in them.

    Attributes:
        prefix: Follows the screen.
        act: Asks for the next action.
        change: Asks whether ``{action}`` changes the screen.
        yes, no: The two answers to ``change``.
        history: How many of the last actions are shown.
    """

    prefix: str
    act: str
    change: str
    yes: str
    no: str
    history: int = 1

    def prefix_text(self, task: str, history: tuple[str, ...]) -> str:
        """The text after the screen."""
        shown = history[len(history) - self.history :] if self.history else ()
        return self.prefix.format(task=task, history=" ; ".join(shown) or NO_HISTORY)

    def change_text(self, action: str) -> str:
        """The question about ``action``."""
        return self.change.format(action=action)

    @property
    def digest(self) -> str:
        """Hash of all texts: part of a feature's fingerprint."""
        return hashlib.blake2b(repr(sorted(asdict(self).items())).encode(), digest_size=8).hexdigest()


STANDARD = PromptTemplate(
    prefix=(
        "You operate a phone. Answer with one action and nothing else. Actions: tap X Y; swipe X Y X2 Y2; "
        "long_press X Y; type TEXT; back; home; enter; wait; complete; impossible. X and Y go from 0 to 1, from the "
        "top left.\nTask: {task}\nPrevious action: {history}\n"
    ),
    act="Next action:",
    change="Proposed action: {action}\nWill this action change the screen? Answer yes or no.",
    yes="yes",
    no="no",
)
COMPACT = PromptTemplate(
    prefix="Task: {task} Last: {history} ",
    act="Act:",
    change="Candidate: {action} Changes?",
    yes="yes",
    no="no",
)
TEMPLATES = {"standard": STANDARD, "compact": COMPACT}
