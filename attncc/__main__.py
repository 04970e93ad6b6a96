"""`python -m attncc` → the command line."""

from attncc.cli import main

main(prog_name="attncc")
