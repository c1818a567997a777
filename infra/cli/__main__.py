"""`python -m infra.cli`: the `ralo` command without its script."""

from infra.cli import main

if __name__ == "__main__":
    main()
