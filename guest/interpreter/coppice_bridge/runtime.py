"""The runtime of a language: its process, and the four files that it is given beside stdin, stdout and stderr.

  fd 0  /dev/null
  fd 1  what user code and its children print, and
  fd 2  the same: pipes that are read while a run lasts
  fd 3  requests, one word a line: run, env, reseed. A runtime may want another text for each, and says so in `ready`, and
          one at each SIGINT during a run
  fd 4  events, one JSON object a line
  fd 5  strings that belong to the request, each followed by a NUL byte, from the start of the file (a memfd):
          run     how many variables there are for it alone, and these, NAME=value each; the code
          env     changes of the environment that stay: NAME=value, or NAME to remove it
          reseed  "keep" or "all": whether generators that user code has seeded go on as they are; 128 hex digits of entropy
  fd 6  a line for each SIGINT during a run, the number of the run: for a runtime that cannot see signals while it computes

Events of a runtime:
  ready {lines?}                  once, at start; `lines`: request or "interrupt" -> the text that is written to fd 3 for it,
                                  "{run}" in it being the number of the run
  stdout | stderr {text}          what was printed, for those who want the order of the two kept
  result {main, data}             main: the value of the code; data: MIME type -> content (coppice_interpreter/mime.py)
  error {name, value, traceback}  the first of a run is told; of another request, it has failed
  done {run?}                     the end of a request of any kind; after it nothing comes for this one. With the number of a
                                  run it is the end of that one alone

A runtime ends when fd 3 does. One that ends in a run ends the context; the next run has a new one.
"""

import fcntl
import json
import os
import select
import signal

PLACES = (3, 4, 5, 6)
# A longer line of a runtime is the end of it.
MAX_EVENT = 256 << 20
READ = 256 << 10


class RuntimeEnded(Exception):
    """`status`: exit status; negative: the signal."""

    def __init__(self, status):
        super().__init__(f"signal: {-status}" if status < 0 else f"exit status {status}")
        self.status = status


class Runtime:
    def __init__(self, command):
        request_reader, self._requests = _pipe()
        self._events, event_writer = _pipe()
        interrupt_reader, self._interrupts = _pipe()
        for fd in (self._interrupts, self._requests):
            os.set_blocking(fd, False)
        self._payload = _apart(os.memfd_create("request"))
        theirs = (request_reader, event_writer, self._payload, interrupt_reader)
        for fd, place in zip(theirs, PLACES):
            os.dup2(fd, place, inheritable=True)
        # stdin, stdout and stderr are already what they must be (wire.py), and whatever else is open is inherited by nobody.
        ignored_here = (signal.SIGPIPE, signal.SIGXFSZ)
        self._pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=ignored_here)
        for fd in (request_reader, event_writer, interrupt_reader, *PLACES):
            os.close(fd)
        self.end = os.pidfd_open(self._pid)
        self._buffer = bytearray()
        self._lines = {}
        self._poller = select.poll()
        for fd in (self._events, self.end):
            self._poller.register(fd, select.POLLIN)
        ready = self.next_event()
        if ready.get("type") != "ready":
            raise ValueError(f"the runtime is not ready: {ready}")
        self._lines = ready.get("lines", {})

    @property
    def events(self):
        return self._events

    def ask(self, request, strings, run=0):
        """`strings` without NUL bytes, but for the last. `run`: the number of a run."""
        data = b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in strings)
        os.ftruncate(self._payload, 0)
        offset = 0
        while offset < len(data):
            offset += os.pwrite(self._payload, data[offset:], offset)
        self._ask_line(self._lines.get(request, request), run)

    def interrupt(self, run):
        _write(self._interrupts, f"{run}\n")
        if "interrupt" in self._lines:
            self._ask_line(self._lines["interrupt"], run)

    def has_ended(self):
        poller = select.poll()
        poller.register(self.end, select.POLLIN)
        return bool(poller.poll(0))

    def next_event(self):
        """Waits. Raises RuntimeEnded when there is none left and will be none."""
        while True:
            event = self._take()
            if event is not None:
                return event
            ready = {fd for fd, _ in self._poller.poll()}
            if self._events in ready:
                if self._read():
                    continue
            # Whoever it has started may hold the pipe of events, so its own end counts.
            if self.end in ready or self._events in ready:
                raise self._ended()

    def drop_events(self):
        """What comes between requests belongs to nothing. False: nothing will come any more."""
        open_still = bool(self._read())
        del self._buffer[: self._buffer.rfind(b"\n") + 1]
        if len(self._buffer) > MAX_EVENT:
            self._buffer.clear()
        return open_still

    def _ask_line(self, text, run):
        _write(self._requests, text.replace("{run}", str(run)) + "\n")

    def _ended(self):
        poller = select.poll()
        poller.register(self.end, select.POLLIN)
        if not poller.poll(1_000):
            # It has closed its events and lives on: of no use.
            os.kill(self._pid, signal.SIGKILL)
        return RuntimeEnded(os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]))

    def _read(self):
        data = os.read(self._events, READ)
        self._buffer += data
        return data

    def _take(self):
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) > MAX_EVENT:
                    os.kill(self._pid, signal.SIGKILL)
                    raise self._ended()
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                return event


def _write(fd, text):
    try:
        os.write(fd, text.encode())
    except (BlockingIOError, BrokenPipeError):
        # What it does not read is of no use to it, and its end is found where its events are read.
        pass


def _apart(fd):
    """Where none of the places are, and inherited by nobody."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(fd)
    return moved


def _pipe():
    return tuple(_apart(fd) for fd in os.pipe())
