"""x."""


def write(runs: object) -> None:
    """X."""
