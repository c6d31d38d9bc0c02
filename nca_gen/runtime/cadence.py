"""What happens when: everything periodic, and stopping on request."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


def due(step: int, every: int, last: int) -> bool:
    """True when a multiple of ``every`` lies in (``last``, ``step``]; ``every`` <= 0 is never.

    ``last`` is the step at which it was done last, so nothing is done twice, nor missed for landing between two steps.
    """
    return every > 0 and step // every > last // every


@contextlib.contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """The SIGTERM or SIGINT received so far, as a list that fills: work goes on, the caller looks and stops in order.

    A second SIGINT kills. The former handlers are back afterwards. Outside the main thread, where Python
    cannot handle signals, the list stays empty.
    """
    received: list[signal.Signals] = []

    def note(number: int, _frame: object) -> None:
        received.append(signal.Signals(number))
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{received[-1].name}: stopping after this step; Ctrl-C quits at once\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    former = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for s, handler in former.items():
            signal.signal(s, handler or signal.SIG_DFL)  # None: one that is not Python's, and cannot be put back
