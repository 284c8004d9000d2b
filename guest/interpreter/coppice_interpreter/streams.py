"""sys.stdout and sys.stderr of user code."""

import codecs
import io


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, stream):
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self):
        return True

    def write(self, data):
        data = bytes(data)
        text = self._decoder.decode(data)
        if text:
            self._stream.write(text)
        return len(data)

    def flush(self):
        self._stream.flush()

    def fileno(self):
        return self._stream.fileno()

    def close(self):
        pass


class PrintStream(io.TextIOBase):
    """What user code has as sys.stdout or sys.stderr. `fileno()` is the pipe, so a child may be given it."""

    encoding = "utf-8"
    errors = "replace"
    newlines = None
    line_buffering = True

    def __init__(self, wire, name):
        super().__init__()
        self._wire = wire
        self._kind = name
        self.name = f"<{name}>"
        self.mode = "w"
        self.buffer = _Bytes(self)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._wire.print(self._kind, text)
        return len(text)

    def flush(self):
        self._wire.flush()

    def fileno(self):
        return 1 if self._kind == "stdout" else 2

    def writable(self):
        return True

    def isatty(self):
        return False

    def close(self):
        pass

    def reconfigure(self, **_options):
        pass
