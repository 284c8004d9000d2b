/** Where frames go out and bytes come in: the virtio port, a unix socket, or stdin and stdout. */
import fs from 'node:fs';
import net from 'node:net';

export interface Transport {
  /** Queues bytes, in order; what is queued in one turn of the event loop leaves in one write. They must not change after. */
  send(bytes: Buffer): void;
  /** Forgets what is queued and not begun: it belonged to a session that is over. */
  dropQueued(): void;
  /** Resolves when all that was queued has been handed to the kernel. */
  flushed(): Promise<void>;
  /** Whether a host is there, as far as the transport can tell. */
  connected(): boolean;
}

export interface TransportEvents {
  onBytes(chunk: Buffer): void;
  /** The host has gone, or another connection begins: half a frame of the one before will not be completed. */
  onDisconnect(): void;
}

const READ_BYTES = 65_536;
/** Up to this size a write that cannot block is done at once on the main thread: a thread hop costs more. */
const SYNC_WRITE_BYTES = 16_384;
/** The virtio port takes at most this much in one write. */
const PORT_WRITE_BYTES = 32_768;
const RETRY_FIRST_MS = 1;
const RETRY_LONGEST_MS = 250;

/**
 * A character device opened for reading and writing. One blocking read is always under way in the thread pool, so that
 * waiting costs nothing. While no host is connected a read returns 0 at once (or fails); only then is there a timer.
 * `writable(fd)` says whether a write would go through without waiting.
 */
export function portTransport(fd: number, writable: (fd: number) => boolean, events: TransportEvents): Transport {
  const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
  let retryMs = RETRY_FIRST_MS;
  const read = (): void => {
    fs.read(fd, buffer, 0, READ_BYTES, null, (error, count) => {
      if (!error && count > 0) {
        retryMs = RETRY_FIRST_MS;
        // Whatever one frame does to its operation: an agent that no longer reads is lost with its sandbox.
        try {
          events.onBytes(buffer.subarray(0, count));
        } finally {
          read();
        }
        return;
      }
      const first = retryMs === RETRY_FIRST_MS;
      setTimeout(read, retryMs);
      retryMs = Math.min(retryMs * 2, RETRY_LONGEST_MS);
      if (first) events.onDisconnect();
    });
  };
  read();
  return portWriter(fd, writable);
}

/** The writing half of `portTransport`. */
export function portWriter(fd: number, writable: (fd: number) => boolean): Transport {
  return queuedWriter((bytes, done) => {
    const write = (at: number): void => {
      fs.write(fd, bytes, at, Math.min(bytes.length - at, PORT_WRITE_BYTES), null, (error, count) => {
        const next = at + (error ? 0 : count);
        if (next === bytes.length) done();
        else if (next > at) write(next);
        else setTimeout(write, RETRY_FIRST_MS, next);
      });
    };
    let written = 0;
    if (bytes.length <= SYNC_WRITE_BYTES && writable(fd)) {
      // The host may go between the question and the write, which then fails or takes nothing.
      try {
        written = fs.writeSync(fd, bytes);
      } catch {}
    }
    if (written === bytes.length) done();
    else write(written);
  });
}

/** Listens on a unix socket, by path or as an open descriptor; the newest connection is the host. */
export function socketTransport(
  at: { readonly path: string } | { readonly fd: number },
  events: TransportEvents,
  mode = 0o600,
): Transport {
  let current: net.Socket | undefined;
  const server = net.createServer((socket) => {
    current?.destroy();
    current = socket;
    events.onDisconnect();
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      if (socket === current) events.onBytes(chunk);
    });
    socket.on('close', () => {
      if (socket !== current) return;
      current = undefined;
      events.onDisconnect();
    });
  });
  if ('fd' in at) server.listen(at);
  else {
    fs.rmSync(at.path, { force: true });
    server.listen(at.path, () => fs.chmodSync(at.path, mode));
  }
  return queuedWriter(
    (bytes, done) => {
      if (!current) done();
      else current.write(bytes, () => done());
    },
    () => current !== undefined,
  );
}

/** Frames on stdin and stdout; ends with stdin. */
export function stdioTransport(events: TransportEvents): Transport {
  process.stdin.on('data', (chunk: Buffer) => events.onBytes(chunk));
  process.stdin.on('end', () => process.kill(process.pid, 'SIGKILL'));
  return queuedWriter((bytes, done) => process.stdout.write(bytes, () => done()));
}

/** Joins what is queued while a write is under way into one buffer, up to this size. */
const JOIN_BYTES = 131_072;

function queuedWriter(write: (bytes: Buffer, done: () => void) => void, connected = () => true): Transport {
  let queue: Buffer[] = [];
  let busy = false;
  let scheduled = false;
  let waiters: (() => void)[] = [];

  const flush = (): void => {
    scheduled = false;
    while (!busy && queue.length > 0) {
      let bytes = 0;
      let count = 0;
      while (count < queue.length && (count === 0 || bytes + queue[count]!.length <= JOIN_BYTES)) {
        bytes += queue[count++]!.length;
      }
      const pieces = queue;
      queue = count === pieces.length ? [] : pieces.splice(count);
      busy = true;
      let later = false;
      write(count === 1 ? pieces[0]! : Buffer.concat(pieces, bytes), () => {
        busy = false;
        if (later) flush();
      });
      later = true;
    }
    if (busy || queue.length > 0) return;
    const ready = waiters;
    waiters = [];
    for (const wake of ready) wake();
  };

  return {
    connected,
    send(bytes) {
      queue.push(bytes);
      if (scheduled || busy) return;
      scheduled = true;
      queueMicrotask(flush);
    },
    dropQueued() {
      queue = [];
    },
    flushed: () =>
      new Promise((resolve) => {
        waiters.push(resolve);
        if (!busy) flush();
      }),
  };
}
