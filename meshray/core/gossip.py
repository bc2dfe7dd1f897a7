"""Which news ride on the next message? Those that were sent the least so far (SWIM 4.1).

Each piece of news is sent `gossip_copies_mult * ceil(log10(n + 1))` times by each peer that hears it, then it is known
by all, but for a chance that vanishes as n grows. There is one piece per node: newer ones replace older ones. Loads
are counted apart: they may get lost, and are sent a few times only.
"""

from __future__ import annotations

import math

from meshray.config import Config
from meshray.wire.gossip import Alive, Dead, Load, News, Suspect

Copied = Alive | Suspect | Dead


def copies(config: Config, count: int) -> int:
    """How often each peer sends a piece of news in a mesh of `count` members."""
    return config.gossip_copies_mult * math.ceil(math.log10(count + 1))


class Rumours:
    """What this peer still has to tell. Bounded by the number of members: one piece, and one load, per node."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._levels: list[dict[bytes, Copied]] = [{}]  # by how often it was sent; within one, in order of arrival
        self._level: dict[bytes, int] = {}  # node -> index in `_levels`
        self._loads: dict[bytes, tuple[Load, int]] = {}  # node -> its load, how often it was sent; in order of turns

    def __bool__(self) -> bool:
        return bool(self._level or self._loads)

    def __len__(self) -> int:
        return len(self._level)

    def tell(self, news: Copied) -> None:
        """To be told to all, in place of what was to be told of the same node."""
        level = self._level.get(news.node)
        if level is not None:
            del self._levels[level][news.node]
        self._levels[0][news.node] = news
        self._level[news.node] = 0

    def tell_load(self, load: Load) -> None:
        self._loads.pop(load.node, None)
        self._loads[load.node] = (load, 0)

    def forget(self, node: bytes) -> None:
        """Nothing is to be told of it any more."""
        level = self._level.pop(node, None)
        if level is not None:
            del self._levels[level][node]
        self._loads.pop(node, None)

    def pick(self, most: int, count: int, receivers: int = 1) -> list[News]:
        """Up to `most` pieces, and some loads, that are now sent to so many receivers of `count` members."""
        news: list[News] = []
        if self._level:
            self._pick_news(news, most, copies(self._config, count), receivers)
        if self._loads:
            self._pick_loads(news, receivers)
        return news

    def _pick_news(self, news: list[News], most: int, limit: int, receivers: int) -> None:
        levels, level_of = self._levels, self._level
        while len(levels) < limit + receivers:
            levels.append({})
        moved: list[tuple[int, dict[bytes, Copied]]] = []
        for level in range(len(levels)):
            items, room = levels[level], most - len(news)
            if not items:
                continue
            if len(items) <= room:
                taken, levels[level] = items, {}
            else:
                taken = {}
                for node in list(items)[:room]:
                    taken[node] = items.pop(node)
            news += taken.values()
            moved.append((level + receivers, taken))
            if len(news) >= most:
                break
        for level, taken in moved:
            if level >= limit:
                for node in taken:
                    del level_of[node]
            else:
                levels[level].update(taken)
                level_of.update(dict.fromkeys(taken, level))

    def _pick_loads(self, news: list[News], receivers: int) -> None:
        loads = self._loads
        for node in list(loads)[: self._config.load_max_news]:
            load, sent = loads.pop(node)
            news.append(load)
            if sent + receivers < self._config.load_copies:
                loads[node] = (load, sent + receivers)
