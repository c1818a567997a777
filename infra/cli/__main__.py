"""`python -m infra.cli`: the `ralo` command without its script."""

from infra.cli import main

main()
