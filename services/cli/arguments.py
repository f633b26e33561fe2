"""Options that several commands share."""

from collections.abc import Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]

SEVERAL = "--examples"


def repeated(arguments: Sequence[str]) -> list[str]:
    """Let `--examples a b` mean `--examples a --examples b`, which typer does not know.

    The values end at the next argument that begins with a dash.
    """
    result: list[str] = []
    values = 0
    inside = False
    for argument in arguments:
        if argument.startswith("-"):
            inside = argument == SEVERAL or argument.startswith(f"{SEVERAL}=")
            values = int(argument != SEVERAL)
        else:
            if inside and values > 0:
                result.append(SEVERAL)
            values += 1
        result.append(argument)
    return result
