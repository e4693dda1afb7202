"""Running the command line in the tests' own process."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from onnxfit import cli


class Ran(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Ran]


def runner(capsys: pytest.CaptureFixture[str]) -> Command:
    """Make a function that runs the command line with some arguments."""

    def command(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        code = stopped.value.code
        captured = capsys.readouterr()
        return Ran(code if isinstance(code, int) else 0, captured.out, captured.err)

    return command


def document_of(command: Command, verb: str, *arguments: object) -> dict[str, Any]:
    """Run a verb that succeeds, and return its document."""
    ran = command(verb, *arguments, "--json")
    assert 0 == ran.status, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document
