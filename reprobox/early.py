"""What steps can have done before their turn comes, beside what they stand on (``ahead``, ``before`` of a layer kind).

It is for speed alone: where nothing comes of it, the step does everything by itself.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from reprobox.building import build_ahead, earlier_layer, step_request, stored_layer
from reprobox.layers.kind import AheadRequest, BeforeRequest, Commands
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.plan import Step
from reprobox.session import Session, this_platform
from reprobox.tree import remove

#: The niceness of what nobody waits for yet: it must not slow down what everybody waits for.
_YIELDING = 10
#: Seconds that a step waits for what was begun for it, or as long again as that has taken, if that is more. Where
#: others keep a machine busy, what yields gets nowhere.
_PATIENCE = 30.0


class Early:
    """The threads of one build, and the folders that they fill, which are gone when the build is over.

    ``arrived`` waits until the inputs of the layer with an id are in the store.
    """

    def __init__(self, session: Session, target: LockedTarget, epoch: int, arrived: Callable[[str], None]) -> None:
        self._session = session
        self._base = target.base.id
        self._epoch = epoch
        self._arrived = arrived
        self._open = target.platform == this_platform() and not session.config.plain  # whether more may be begun
        self._begun: dict[str, Future[Path | None]] = {}
        self._since: dict[str, float] = {}
        self._awaited: dict[str, threading.Event] = {}
        self._beside_base = threading.Lock()  # held where something is done while the base is built
        self._folders: dict[str, contextlib.ExitStack] = {}
        self._going: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for awaited in self._awaited.values():
            awaited.set()
        with self._beside_base:
            self.let_go(*self._folders)
        for thread in self._going:
            thread.join()

    def begin(self, steps: Sequence[Step]) -> None:
        """Begin what can be done for these, whose turn has not come: at once, or as soon as there is the base."""
        if not self._open:
            return
        over_base = self._session.store.layer(self._base) is not None
        for step in steps:
            if over_base and self._is_worth_it(step):
                self._begin(step, self._ahead)
            elif not over_base and self._is_worth_it_before(step):
                self._awaited[step.layer.id] = threading.Event()
                self._begin(step, self._before)
        self._open = not over_base

    def _begin(self, step: Step, work: Callable[[Step, Path], bool]) -> None:
        self._folders[step.layer.id] = contextlib.ExitStack()
        folder = self._folders[step.layer.id].enter_context(self._session.store.scratch())
        self._begun[step.layer.id] = Future()
        threading.Thread(target=self._work, args=(step, folder, work), name="reprobox-early", daemon=True).start()

    def let_go(self, *layers: str) -> None:
        """Remove what was made for the layers with these ids, in a thread of its own: it can be large."""
        popped = (
            self._folders.pop(layer, None) for layer in layers
        )  # at the end, others may be about to do so as well
        folders = [folder for folder in popped if folder is not None]
        if folders:
            self._going.append(
                threading.Thread(target=_close, args=(folders,), name="reprobox-early-going", daemon=True)
            )
            self._going[-1].start()

    def result(self, layer: str) -> Path | None:
        """The folder that was filled for the layer with this id, waiting for it; None where nothing came of it."""
        if layer in self._awaited:
            self._awaited[layer].set()
        if layer not in self._begun:
            return None
        taken = time.monotonic() - self._since.get(layer, math.inf)
        try:
            return self._begun[layer].result(max(_PATIENCE, taken))
        except TimeoutError:
            return None

    def stand_ins(self, layers: Sequence[LockedLayer]) -> dict[str, Path]:
        """What stands for inputs of these layers, by their sha256: made while the base was built, waiting for it."""
        found: dict[str, Path] = {}
        for layer in layers:
            with contextlib.suppress(TimeoutError, FileNotFoundError):  # it takes long, or the layer is built by now
                folder = self._begun[layer.id].result(_PATIENCE) if layer.id in self._awaited else None
                names = {path.name: path for path in folder.iterdir()} if folder else {}
                found |= {item.sha256: names[item.name] for item in layer.inputs if item.name in names}
        return found

    def _is_worth_it(self, step: Step) -> bool:
        """Whether the kind can do something, no earlier layer has it done, and the builder stacks trees."""
        session = self._session
        if not hasattr(session.kind(step.layer.kind), "ahead"):
            return False
        stacks = getattr(session.builder, "overlay", None)
        if step.layer.id in self._begun or not callable(stacks):
            return False
        return earlier_layer(session.store, step.layer, step.below, self._epoch) is None and bool(stacks())

    def _is_worth_it_before(self, step: Step) -> bool:
        """Whether the kind can do something while nothing but the base is built."""
        kind = self._session.kind(step.layer.kind)
        return step.layer.id not in self._begun and len(step.below) == 1 and hasattr(kind, "before")

    def _work(self, step: Step, folder: Path, work: Callable[[Step, Path], bool]) -> None:
        found = None
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _YIELDING)
            if work(step, folder):
                found = folder
        except Exception:  # noqa: BLE001 - what is wrong, the step or its inputs, is told by who needs it
            with contextlib.suppress(OSError):
                remove(folder)  # the disk may be full
        finally:
            self._begun[step.layer.id].set_result(found)

    def _before(self, step: Step, folder: Path) -> bool:
        store, awaited = self._session.store, self._awaited[step.layer.id]
        self._arrived(step.layer.id)
        self._since[step.layer.id] = time.monotonic()
        with self._beside_base:
            if awaited.is_set():
                return False
            request = BeforeRequest(
                layer=step.layer,
                input=lambda item: store.blob(item.sha256),
                folder=folder,
                awaited=awaited.is_set,
            )
            return bool(self._session.kind(step.layer.kind).before(request))  # type: ignore[attr-defined]

    def _ahead(self, step: Step, folder: Path) -> bool:
        for layer in (*step.below, step.layer):
            self._arrived(layer.id)
        self._since[step.layer.id] = time.monotonic()
        return bool(self._session.kind(step.layer.kind).ahead(self._request(step, folder)))  # type: ignore[attr-defined]

    def _request(self, step: Step, folder: Path) -> AheadRequest:
        store, ready = self._session.store, self.stand_ins(step.below)
        base = store.own(stored_layer(store, step.below[0]))

        def input_path(item: Input) -> Path:
            path = ready.get(item.sha256)
            return path if path is not None and path.exists() else store.blob(item.sha256)

        def build(over: Path, commands: Commands) -> None:
            build_ahead(self._session, step.layer, commands, base, over, folder, self._epoch)

        return AheadRequest(
            step=replace(step_request(self._session, step.layer, step.below, self._epoch), earlier=None),
            below=step.below,
            base=base.tree,
            input=input_path,
            folder=folder,
            build=build,
        )


def _close(folders: Sequence[contextlib.ExitStack]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # a program that nobody waited for may still write
            folder.close()
