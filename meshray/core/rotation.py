"""Changing the key of a running mesh: who is asked what, until when, and what is said at the end.

Theory. A key is changed in two steps, since a port answers with one key alone. *Stage*: everybody keeps the next key
beside the current one; it admits, and diallers try it. *Switch*: ports answer with it. Both are one campaign after the
other, each one question to all members at once, repeated until it is answered or the time is over::

    STAGE     GiveKey to all                                                            -> report
    SWITCH    WhichKeys to all; does anybody lack the next key, it ends here            -> report
              UseKey to all that have it; they answer, and switch a moment later
              `SwitchHere`: this peer switches
              WhichKeys to all, until their current key is the new one                  -> report
    WHICH     WhichKeys to all                                                          -> report

No step relies on the one who began. **Whoever has a next key and meets a port that answers with it switches by itself**
(`on_met_next`, in the shell of every peer): such a port shows that its owner has switched, and nobody without the new
key can pretend to. So one peer that has switched is enough, and one that was away follows when it comes back; only a
member that never got the next key stays outside, and needs a token. If I, the peer that asks, dies

- while it stages: some have the next key, and nobody uses it. `key stage --again` goes on, on any that has it.
- before anybody has switched: the same. Asked once more, it begins anew; each answer is a repeat.
- after: those who have switched are met by the others.

One change of keys at a time; its owner performs the effects and keeps the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

from msgspec import Struct

from meshray.config import Config
from meshray.core.effects import Core
from meshray.wire.rotation import GiveKey, KeysHere, RotationMessage, UseKey, WhichKeys


class Kind(Enum):
    STAGE = "stage"
    SWITCH = "switch"
    WHICH = "which"


# -- effects -----------------------------------------------------------------------------------------------------------


class TellMember(Struct, frozen=True):
    """Send this to a member; it may get lost."""

    node: bytes
    message: RotationMessage


class SwitchHere(Struct, frozen=True):
    """This peer's next key is to be its current one, now."""


class Report(Struct, frozen=True):
    """It is over. `answers`: what each member has said last, None when it has said nothing."""

    kind: Kind
    key_id: bytes
    done: bool  # False: it ended before anything was changed, since somebody lacks the key
    answers: dict[bytes, KeysHere | None]


# -- one question to all -----------------------------------------------------------------------------------------------


class Campaign:
    """One question, to some nodes. `enough` judges an answer; one that is not enough is asked for again."""

    def __init__(
        self,
        nodes: Iterable[bytes],
        message: RotationMessage,
        config: Config,
        now: float,
        enough: Callable[[KeysHere], bool] = lambda answer: True,
    ) -> None:
        self.message = message
        self.answers: dict[bytes, KeysHere | None] = dict.fromkeys(nodes)
        self.ends_at = now + config.key_ask_s
        self.again_at = now
        self._pause_s = config.key_ask_again_s
        self._enough = enough

    def open(self) -> list[bytes]:
        """Those of whom an answer is still wanted."""
        return [node for node, answer in self.answers.items() if answer is None or not self._enough(answer)]

    def is_over(self, now: float) -> bool:
        return now >= self.ends_at or not self.open()

    def due(self, now: float) -> list[bytes]:
        """Whom to ask now."""
        if now < self.again_at:
            return []
        self.again_at = now + self._pause_s
        return self.open()

    def on_answer(self, node: bytes, answer: KeysHere) -> None:
        if node in self.answers:
            self.answers[node] = answer

    def forget(self, node: bytes) -> None:
        """It is no member any more."""
        self.answers.pop(node, None)

    def next_at(self) -> float:
        return min(self.again_at, self.ends_at)


# -- the whole change --------------------------------------------------------------------------------------------------


class Rotation(Core):
    """See the head of this file. Begins at once: `take_effects` after the constructor and after each event.

    `nodes` are the living members without this peer, `number` one that no other change of this peer has had. With
    `expel`, members that lack the next key are left behind.
    """

    def __init__(
        self,
        kind: Kind,
        nodes: Iterable[bytes],
        key_id: bytes,
        secret: bytes,
        mesh: bytes,
        number: int,
        config: Config,
        now: float,
        *,
        expel: bool = False,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.over = False
        self._left_behind: list[bytes] = []  # of SWITCH: who lacks the next key, and is not asked any more
        self._key_id = key_id  # of the next key; for WHICH of the current one
        self._number = number
        self._config = config
        self._expel = expel
        self._step = 0  # of SWITCH: 0 asks, 1 tells, 2 looks
        if kind is Kind.STAGE:
            self._campaign = Campaign(nodes, GiveKey(number, mesh, secret), config, now)
        else:
            self._campaign = Campaign(nodes, WhichKeys(number), config, now)
        self.tick(now)

    def on_answer(self, node: bytes, answer: KeysHere, now: float) -> None:
        """What a member says; of an earlier question it is dropped."""
        if not self.over and answer.number == self._number + self._step:
            self._campaign.on_answer(node, answer)
            self.tick(now)

    def on_gone(self, node: bytes, now: float) -> None:
        """A member has died or left: nobody waits for it."""
        if not self.over:
            self._campaign.forget(node)
            self.tick(now)

    def tick(self, now: float) -> None:
        while not self.over and self._campaign.is_over(now):
            self._go_on(now)
        if not self.over:
            for node in self._campaign.due(now):
                self._effects.append(TellMember(node, self._campaign.message))

    def next_at(self) -> float:
        """When `tick` is due; not to be asked when it is over."""
        return self._campaign.next_at()

    def _go_on(self, now: float) -> None:
        answers = self._campaign.answers
        if self.kind is not Kind.SWITCH or self._step == 2:
            self._end(True)
        elif self._step == 0:
            lacking = [node for node, answer in answers.items() if not self._has(answer)]
            if lacking and not self._expel:
                self._end(False)
                return
            self._step = 1
            self._left_behind = lacking
            having = [node for node in answers if node not in lacking]
            self._campaign = Campaign(having, UseKey(self._number + 1, self._key_id), self._config, now)
        else:
            self._effects.append(SwitchHere())
            self._step = 2
            question = WhichKeys(self._number + 2)
            self._campaign = Campaign(answers, question, self._config, now, lambda a: a.current == self._key_id)

    def _has(self, answer: KeysHere | None) -> bool:
        return answer is not None and self._key_id in (answer.current, answer.next)

    def _end(self, done: bool) -> None:
        self.over = True
        answers = {**dict.fromkeys(self._left_behind), **self._campaign.answers}
        self._effects.append(Report(self.kind, self._key_id, done, answers))


STEPS = 3
"""A change uses so many numbers, from its own on."""
