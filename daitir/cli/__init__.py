"""The `daitir` command."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `daitir.cli.command`."""
    from daitir.cli import command  # late: whoever imports a part of it needs not the whole

    return command.main(argv)
