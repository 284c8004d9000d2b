"""File descriptors, the events, and every byte that user code prints.

Requests (one JSON object a line, at most MAX_REQUEST bytes), field `op`:
  execute {id, code, env_vars?, trace?}   run a cell; `trace: false` restores the namespace and the counters afterwards
  reseed  {id, entropy, keep_given?, generation?}
                                          base64: mix into every generator of this process, `keep_given`: but those that
                                          user code has seeded; the generation goes into the environment
  env     {set}                           the sandbox's global environment; replaces the set before
  ping    {id}

Events (one ASCII JSON object a line), field `type`:
  ready {}                                once, at start
  ack {id}                                of ping and reseed
  number_of_executions {id, execution_count}
  stdout | stderr {id, text}              at most CHUNK characters
  part {id, field, text}                  a piece of a long string field of the result that follows
  result {id, main, fields}               fields by E2B's names; those sent as parts are not repeated
  error {id, name, value, traceback}      at most one a run
  end_of_execution {id}                   always the last of a run
  refused {id?, reason}                   a request that cannot be served; nothing else follows for that id

User code sees /dev/null as fd 0 and two pipes as fd 1 and 2. While a run lasts, one thread drains the pipes; between runs
there is no thread, and whatever arrives is dropped by the main loop. What Python code prints does not pass through a pipe:
before it is taken the pipes are emptied, so the order of `print` and of a child's output is that in which they happened.
"""

import _thread
import codecs
import fcntl
import json
import os
import select
import threading

from .gate import Gate

MAX_REQUEST = 64 << 20
CHUNK = 32 << 10
READ = 64 << 10
PIPE = 1 << 20
# Seconds for which text printed by Python code may wait for more, so that a burst is one event.
GATHER = 0.05
# A line of structured fields may be this long, in characters; longer ones are dropped by name.
MAX_STRUCTURED = 3 << 20
# All string fields of one result together, in characters.
MAX_STRINGS = 64 << 20
MAX_ERROR = 128 << 10

_dumps = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def _private(fd):
    """A duplicate that no exec'd child inherits and that user code does not meet by accident."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)


def _pipe_as(fd):
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE)
    except OSError:
        pass
    os.dup2(writer, fd, inheritable=True)
    os.close(writer)
    private = _private(reader)
    os.close(reader)
    os.set_blocking(private, False)
    return private


class Wire:
    def __init__(self):
        self._requests = _private(0)
        self._events = _private(1)
        self._diagnostics = _private(2)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0, inheritable=True)
        os.close(null)
        self._raw = {"stdout": _pipe_as(1), "stderr": _pipe_as(2)}
        self._decoders = {}
        wake_reader, wake_writer = os.pipe()
        self._wake_reader, self._wake_writer = _private(wake_reader), _private(wake_writer)
        os.close(wake_reader)
        os.close(wake_writer)
        os.set_blocking(self._wake_writer, False)
        self._poller = select.poll()
        for fd in self._raw.values():
            self._poller.register(fd, select.POLLIN)
        self.gate = Gate()
        self._lock = threading.Lock()
        self._run = None
        self._pumping = None
        self._stream = "stdout"
        self._parts = []
        self._size = 0
        # True: the pump has been woken, and flushes what is gathered until then.
        self._armed = False
        self._buffer = bytearray()
        self._skipping = False
        self._watched = {}
        self.in_child = False
        # True: events go nowhere.
        self.muted = False
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork_in_child
        )

    # -- requests ---------------------------------------------------------------------------------------------------

    def watch(self, fd, action):
        """Between requests `action` is called whenever `fd` can be read."""
        self._watched[fd] = action

    def next_request(self):
        """The next request as a dict; None when the host has gone. Waits without any timer."""
        while True:
            line = self._take_line()
            if line is not None:
                request = self._parse(line)
                if request is not None:
                    return request
                continue
            poller = select.poll()
            for fd in (self._requests, *self._raw.values(), *self._watched):
                poller.register(fd, select.POLLIN)
            for fd, _ in poller.poll():
                if fd in self._watched:
                    self._watched[fd]()
                    continue
                if fd != self._requests:
                    self._discard(fd)
                    continue
                data = os.read(self._requests, READ)
                if not data:
                    return None
                self._buffer += data

    def _take_line(self):
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_REQUEST:
                self._buffer.clear()
                self._skipping = True
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if self._skipping:
            self._skipping = False
            self.send({"type": "refused", "reason": f"a request is longer than {MAX_REQUEST} bytes"})
            return b""
        return line

    def _parse(self, line):
        if not line:
            return None
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if isinstance(request, dict):
            return request
        self.send({"type": "refused", "reason": "a request is not a JSON object"})
        return None

    @staticmethod
    def _discard(fd):
        try:
            os.read(fd, READ)
        except BlockingIOError:
            pass

    # -- runs -------------------------------------------------------------------------------------------------------

    def begin(self, run):
        """From here to `finish`, output belongs to `run`."""
        for _ in range(2 * PIPE // READ):
            ready = self._poller.poll(0)
            if not ready:
                break
            for fd, _ in ready:
                self._discard(fd)
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._raw}
        self._run = run
        self._armed = False
        # Not a threading.Thread: user code that counts its threads does not find this one.
        self._pumping = _thread.allocate_lock()
        self._pumping.acquire()
        _thread.start_new_thread(self._pump_raw, ())

    def finish(self):
        """Everything printed so far has been sent when this returns; later output is dropped."""
        os.write(self._wake_writer, b"q")
        self._pumping.acquire()
        with self._lock:
            self._drain()
            for name, decoder in self._decoders.items():
                rest = decoder.decode(b"", final=True)
                if rest:
                    self._append(name, rest)
            self._flush()
            self._run = None

    def emit(self, event):
        """Sends an event of the present run, after all output that came before it. Dropped between runs."""
        if self.in_child:
            return
        self.gate.enter()
        try:
            with self._lock:
                if self._run is None:
                    return
                self._drain()
                self._flush()
                self._write({"type": event.pop("type"), "id": self._run, **event})
        finally:
            self.gate.leave()

    def send(self, event):
        """Sends an event that belongs to no run."""
        with self._lock:
            self._write(event)

    def result(self, main, fields):
        """`fields`: E2B's names to JSON values. Long strings leave in parts; what is over a limit is dropped and named."""
        if self.in_child:
            return
        fields, parts, notices = _fit(fields)
        self.gate.enter()
        try:
            with self._lock:
                if self._run is None:
                    return
                self._drain()
                self._flush()
                for notice in notices:
                    self._write({"type": "stderr", "id": self._run, "text": notice + "\n"})
                for name, text in parts:
                    for start in range(0, len(text), CHUNK):
                        piece = text[start : start + CHUNK]
                        self._write({"type": "part", "id": self._run, "field": name, "text": piece})
                line = '{"type":"result","id":%s,"main":%s,"fields":{%s}}\n'
                body = ",".join(f"{_dumps(name)}:{text}" for name, text in fields)
                self._write_bytes((line % (_dumps(self._run), "true" if main else "false", body)).encode("ascii"))
        finally:
            self.gate.leave()

    def diagnose(self, text):
        """For the log of the host: why this program cannot go on."""
        if not self.in_child:
            _write_all(self._diagnostics, text.encode("utf-8", "replace"))

    # -- printed text -----------------------------------------------------------------------------------------------

    def print(self, name, text):
        """What Python code writes to sys.stdout or sys.stderr."""
        if self.in_child:
            _write_all(1 if name == "stdout" else 2, text.encode("utf-8", "replace"))
            return
        self.gate.enter()
        try:
            with self._lock:
                if self._run is None:
                    return
                if not self._parts or self._parts[-1].endswith("\n"):
                    self._drain()
                self._append(name, text)
                if self._size >= CHUNK:
                    self._flush()
                elif not self._armed:
                    self._armed = True
                    self._wake(b"a")
        finally:
            self.gate.leave()

    def flush(self):
        if self.in_child:
            return
        self.gate.enter()
        try:
            with self._lock:
                self._flush()
        finally:
            self.gate.leave()

    def _append(self, name, text):
        if name != self._stream:
            self._flush()
            self._stream = name
        self._parts.append(text)
        self._size += len(text)

    def _flush(self):
        """Under the lock."""
        if not self._parts:
            return
        text = "".join(self._parts)
        self._parts = []
        self._size = 0
        for start in range(0, len(text), CHUNK):
            self._write({"type": self._stream, "id": self._run, "text": text[start : start + CHUNK]})

    def _drain(self):
        """Under the lock: takes what the pipes hold now, at most one pipe's worth."""
        if self._run is None:
            return
        for _ in range(2 * PIPE // READ):
            ready = self._poller.poll(0)
            if not ready:
                return
            for fd, _ in ready:
                name = "stdout" if fd == self._raw["stdout"] else "stderr"
                try:
                    data = os.read(fd, READ)
                except BlockingIOError:
                    continue
                text = self._decoders[name].decode(data)
                if text:
                    self._append(name, text)
                if self._size >= CHUNK:
                    self._flush()

    def _pump_raw(self):
        try:
            self._pump_until_told()
        finally:
            self._pumping.release()

    def _pump_until_told(self):
        poller = select.poll()
        poller.register(self._wake_reader, select.POLLIN)
        for fd in self._raw.values():
            poller.register(fd, select.POLLIN)
        gather = select.poll()
        gather.register(self._wake_reader, select.POLLIN)
        last = False
        while not last:
            if any(fd == self._wake_reader for fd, _ in poller.poll()):
                last = b"q" in os.read(self._wake_reader, READ)
                if not last and gather.poll(GATHER * 1000):
                    last = b"q" in os.read(self._wake_reader, READ)
            with self._lock:
                self._armed = False
                self._drain()
                self._flush()

    def _wake(self, byte):
        try:
            os.write(self._wake_writer, byte)
        except BlockingIOError:
            pass

    def _write(self, event):
        self._write_bytes((_dumps(event) + "\n").encode("ascii"))

    def _write_bytes(self, data):
        if not self.muted:
            _write_all(self._events, data)

    # -- fork -------------------------------------------------------------------------------------------------------

    def _before_fork(self):
        if self.in_child:
            return
        self.gate.enter()
        self._lock.acquire()

    def _after_fork(self):
        if self.in_child:
            return
        self._lock.release()
        self.gate.leave(may_raise=False)

    def _after_fork_in_child(self):
        if self.in_child:
            return
        # The child prints into the pipes as any other program; the protocol is not its business.
        self.in_child = True
        for fd in (self._requests, self._events, self._diagnostics, self._wake_reader, self._wake_writer):
            os.close(fd)
        for fd in self._raw.values():
            os.close(fd)
        self._lock = threading.Lock()
        self.gate.restart_in_child()


def _write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _fit(fields):
    """Splits fields into (small: [(name, JSON text)], parts: [(name, text)], notices)."""
    small, parts, notices = [], [], []
    strings = structured = 0
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > CHUNK:
            strings += len(value)
            if strings > MAX_STRINGS:
                strings -= len(value)
                notices.append(f"[{name} of {len(value)} characters is over the limit of a result and was left out]")
            else:
                parts.append((name, value))
            continue
        try:
            text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            continue
        structured += len(text)
        if structured > MAX_STRUCTURED:
            structured -= len(text)
            notices.append(f"[{name} of {len(text)} characters is over the limit of a result and was left out]")
            continue
        small.append((name, text))
    return small, parts, notices
