"""Hooks on a model's modules that are there for as long as a block runs."""

from types import TracebackType

from torch.utils.hooks import RemovableHandle


class Hooked:
    """Base of context managers that hook modules: what they add on entering is removed on leaving."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
