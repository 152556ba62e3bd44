"""What spython is asked: labels of images, and commands whose output is wanted.

Its traps, and what is done about them:

- It calls ``singularity`` by that name: :func:`reprobox_singularity.apptainer.find` looks for nothing else.
- ``execute`` takes ``contain`` and does not use it, knows no ``rocm``, and drops empty arguments: options are passed as
  ``options=[…]``. Its ``environ`` replaces the whole environment: a complete one is passed.
- ``stream=True`` deadlocks once stderr fills its pipe: it is never used.
- ``inspect`` returns a message instead of raising when it fails: that is looked for.
- ``build`` returns None when it fails, and wants sudo unless told otherwise: :mod:`reprobox_singularity.realize`.

Runs and steps are no business of it: it would stand between a command and its terminal. Imported only where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from reprobox.errors import ReproboxError
from reprobox_singularity import apptainer


def labels(location: str) -> dict[str, str]:
    """The labels of an image or a sandbox folder. Raises :class:`ReproboxError` if it cannot be read."""
    apptainer.find()
    answer = _client().inspect(location, singularity_options=["--silent"])
    attributes = answer.get("attributes") if isinstance(answer, dict) else None
    if attributes is None:
        said = answer.get("message", answer) if isinstance(answer, dict) else answer
        raise ReproboxError(
            f"Apptainer cannot inspect it: {''.join(map(str, said)).strip()}",
            where=location,
            hint="it may be cut off, or no SIF; `reprobox realize` makes it anew once it is removed",
        )
    return {str(name): str(value) for name, value in (attributes["labels"] or {}).items()}


def execute(image: str, command: Sequence[str], options: Sequence[str]) -> tuple[int, str]:
    """The exit status of a command in an image, and what it and Apptainer said."""
    environment = apptainer.own_environment(os.environ)
    answer = _client().execute(
        image, list(command), options=list(options), return_result=True, environ=environment, quiet=True
    )
    return answer["return_code"], "".join(map(str, answer["message"] or ())).strip()


def _client() -> Any:
    from spython.main import get_client

    return get_client(quiet=True)
