"""Asks the peer of its host for its status, once for each line of its standard input; prints a line of JSON."""

from __future__ import annotations

import sys

from meshray.cli.client import UnreachableError, Visit
from meshray.local import find_peers
from tests.lan.out import tell


def main() -> None:
    for _ in sys.stdin:
        told: dict[str, object] = {"mesh": None}
        for record in find_peers():
            try:
                with Visit(record) as visit:
                    told = visit.ask("status")
            except UnreachableError as error:
                told["error"] = str(error)
        tell(told)


if __name__ == "__main__":
    main()
