"""`python -m meshray.cli`: the same as `meshray`, where no script was installed."""

from __future__ import annotations

from meshray.cli import main

main()
