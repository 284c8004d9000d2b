"""When SIGINT counts."""

import threading


class Gate:
    """Decides when SIGINT becomes KeyboardInterrupt: only during a run, and never in the middle of an event."""

    def __init__(self):
        self.running = False
        self.pending = False
        self._depth = 0
        self._main = threading.get_ident()

    def on_signal(self, _signum, _frame):
        if not self.running:
            return
        if self._depth:
            self.pending = True
            return
        raise KeyboardInterrupt

    def restart_in_child(self):
        self.running = True
        self.pending = False
        self._depth = 0
        self._main = threading.get_ident()

    def enter(self):
        if threading.get_ident() == self._main:
            self._depth += 1

    def leave(self, may_raise=True):
        if threading.get_ident() == self._main:
            self._depth -= 1
            if self.pending and may_raise and not self._depth:
                self.pending = False
                if self.running:
                    raise KeyboardInterrupt
