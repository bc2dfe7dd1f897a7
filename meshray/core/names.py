"""Which actor has this name? One namespace per application, one actor per name in it.

A name is taken when its actor is created and free again when the actor's end is certain, before its process is gone:
`kill` and a new actor of the same name work one after the other.

Of a detached actor that has died unwanted its name says why for a while: whoever looks for it had no part in its life,
and hears of it nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshray.core.gone import remember
from meshray.wire.messages import Failure

LAST_WORDS_MAX = 256
"""Names of which is remembered how their last actor has died; the oldest are forgotten."""

LAST_WORDS_CHARS = 4096
"""What is remembered of it, at most: less than what a message takes."""

LAST_WORDS = "last words"
"""Among the details of a failure: how the last actor of that name has died."""


class Names:
    """(namespace, name) to actor id, and back."""

    def __init__(self) -> None:
        self._actors: dict[tuple[str, str], bytes] = {}  # from `claim` to `release`
        self._names: dict[bytes, tuple[str, str]] = {}  # the inverse: an actor has at most one name
        self._last_words: dict[tuple[str, str], str] = {}  # of names whose last actor has died unwanted; bounded

    def claim(self, namespace: str, name: str, actor_id: bytes) -> bytes:
        """Take the name. Returns the actor that has it now: `actor_id`, or the one that was there before."""
        holder = self._actors.setdefault((namespace, name), actor_id)
        if holder == actor_id:
            self._names[actor_id] = (namespace, name)
            self._last_words.pop((namespace, name), None)
        return holder

    def find(self, namespace: str, name: str) -> bytes | None:
        """The actor of that name."""
        return self._actors.get((namespace, name))

    def release(self, actor_id: bytes) -> bool:
        """The actor has its name no more. False: it had none."""
        key = self._names.pop(actor_id, None)
        if key is not None:
            del self._actors[key]
        return key is not None

    def mourn(self, namespace: str, name: str, why: str) -> None:
        """The actor of this name has died, or is about to, and nobody has wanted that."""
        remember(self._last_words, (namespace, name), why[:LAST_WORDS_CHARS], LAST_WORDS_MAX)

    def last_words(self, namespace: str, name: str) -> str:
        """How the last actor of that name has died; "" when nothing is to be told of it."""
        return self._last_words.get((namespace, name), "")

    def others(self, namespace: str, name: str) -> list[str]:
        """Namespaces other than this one in which the name is taken, for a hint to people."""
        return sorted(space for space, taken in self._actors if taken == name and space != namespace)

    def __iter__(self) -> Iterator[tuple[str, str, bytes]]:
        """(namespace, name, actor id) of all, in order of creation."""
        for (namespace, name), actor_id in self._actors.items():
            yield namespace, name, actor_id

    def __len__(self) -> int:
        return len(self._actors)


def name_taken(namespace: str, name: str) -> Failure:
    """Why an actor of this name is not created."""
    text = (
        f"the name {name!r} is taken by another actor of namespace {namespace!r}: choose another name, get the actor "
        f"with get_actor({name!r}), or ask for get_if_exists=True"
    )
    return Failure("ActorAlreadyExistsError", text)


def no_such_name(namespace: str, name: str, others: list[str], mute: int = 0, last_words: str = "") -> Failure:
    """Why no actor is found. `others`: namespaces that have one; so many members are `mute`: they may know one;
    `last_words`: how the last one has died."""
    text = f"there is no actor named {name!r} in namespace {namespace!r}"
    if others:
        text += f" (there is one in {', '.join(map(repr, others))})"
    if mute:
        text += f"; hosts that have not answered: {mute}"
    if last_words:
        text += f". The last one has died: {last_words}"
    return Failure("ValueError", text, details={LAST_WORDS: last_words} if last_words else {})


def other_python(namespace: str, name: str, created: bool = False) -> Failure:
    """Why an actor that is there is not found; or, if one should be `created`, not created."""
    text = (
        f"the actor named {name!r} of namespace {namespace!r} belongs to a host with another minor version of Python: "
        "it cannot be called from this one"
    )
    return Failure("ActorAlreadyExistsError" if created else "ValueError", text)
