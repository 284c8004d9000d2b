/** One process that the agent started: its output to whoever is attached, its input, its end. */
import type { ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import type { ExitEvent, ProcessInfo } from '../../src/channel/protocol.ts';
import type { AgentStream } from './stream.ts';

/** How long after the exit its pipes may still bring output, when grandchildren hold them. */
const GRACE_MS = 100;
/** Output after the exit that is waited for when the reader is slow: the largest pipe there is. */
const GRACE_BYTES = 1_048_576;

/** Go's names of signals, as E2B's clients know them. */
const SIGNAL_NAMES: Readonly<Record<string, string>> = {
  SIGHUP: 'hangup',
  SIGINT: 'interrupt',
  SIGQUIT: 'quit',
  SIGILL: 'illegal instruction',
  SIGTRAP: 'trace/breakpoint trap',
  SIGABRT: 'aborted',
  SIGBUS: 'bus error',
  SIGFPE: 'floating point exception',
  SIGKILL: 'killed',
  SIGUSR1: 'user defined signal 1',
  SIGSEGV: 'segmentation fault',
  SIGUSR2: 'user defined signal 2',
  SIGPIPE: 'broken pipe',
  SIGALRM: 'alarm clock',
  SIGTERM: 'terminated',
  SIGSTKFLT: 'stack fault',
  SIGXCPU: 'CPU time limit exceeded',
  SIGXFSZ: 'file size limit exceeded',
  SIGVTALRM: 'virtual timer expired',
  SIGPROF: 'profiling timer expired',
  SIGIO: 'I/O possible',
  SIGPWR: 'power failure',
  SIGSYS: 'bad system call',
};

export interface Ends {
  /** Where output comes from, with its kind. */
  readonly outputs: readonly { readonly socket: Socket; readonly kind: number }[];
  /** Where input goes; absent: there is none. */
  readonly input?: Socket;
  /** Master side of the terminal, for its size. */
  readonly pty?: number;
}

export class AgentProcess {
  readonly info: ProcessInfo;
  readonly pty: number | undefined;
  /** Set when the exit was told. `atMs` is on the monotonic clock. */
  exit: { readonly event: ExitEvent; readonly atMs: number } | undefined;
  readonly #ends: Ends;
  readonly #onExit: (process: AgentProcess) => void;
  readonly #attached = new Set<AgentStream>();
  #open: number;
  #paused = false;
  #ended: ExitEvent | undefined;
  #afterExit = 0;
  #grace: NodeJS.Timeout | undefined;

  constructor(info: ProcessInfo, child: ChildProcess, ends: Ends, onExit: (process: AgentProcess) => void) {
    this.info = info;
    this.pty = ends.pty;
    this.#ends = ends;
    this.#onExit = onExit;
    this.#open = ends.outputs.length;
    for (const { socket, kind } of ends.outputs) this.#listen(socket, kind);
    ends.input?.on('error', () => {});
    child.on('exit', (code, signal) => {
      this.#ended =
        signal === null
          ? { event: 'exit', exitCode: code ?? -1 }
          : { event: 'exit', exitCode: -1, signal: SIGNAL_NAMES[signal] ?? signal };
      if (ends.pty === undefined) ends.input?.destroySoon();
      this.#settle();
    });
  }

  /** The stream gets all output from now on, and its DATA is input. For a process that is gone: its exit. */
  attach(stream: AgentStream): void {
    if (this.exit) {
      stream.event(this.exit.event);
      stream.end();
      return;
    }
    this.#attached.add(stream);
    stream.onDrain = () => this.#unblock();
    stream.onClose = () => {
      this.#attached.delete(stream);
      this.#unblock();
    };
    stream.onData = (bytes) => this.#write(stream, bytes);
    stream.onEnd = () => {
      // A terminal has no half-close; its programs end on ^D.
      if (this.pty === undefined) this.#ends.input?.end();
    };
  }

  #write(stream: AgentStream, bytes: Buffer): void {
    const input = this.#ends.input;
    if (!input || input.destroyed || input.writableEnded) stream.consumed(bytes.length);
    else input.write(bytes, () => stream.consumed(bytes.length));
  }

  #listen(socket: Socket, kind: number): void {
    let open = true;
    const closed = (): void => {
      if (!open) return;
      open = false;
      this.#open--;
      socket.destroy();
      this.#settle();
    };
    socket.on('data', (chunk: Buffer) => {
      if (this.#ended) this.#afterExit += chunk.length;
      if (this.exit) return;
      let blocked = false;
      for (const stream of this.#attached) if (!stream.data(kind, chunk)) blocked = true;
      if (blocked) this.#pause();
    });
    // A terminal whose last program has gone answers EIO, which is its end.
    socket.on('error', closed);
    socket.on('end', closed);
    socket.on('close', closed);
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    for (const { socket } of this.#ends.outputs) socket.pause();
  }

  #unblock(): void {
    if (!this.#paused) return;
    for (const stream of this.#attached) if (stream.blocked) return;
    this.#paused = false;
    for (const { socket } of this.#ends.outputs) socket.resume();
    this.#settle();
  }

  /** Tells the exit once the process is gone and its output is through, or the grace is over. */
  #settle(): void {
    if (!this.#ended || this.exit) return;
    if (this.#open === 0) {
      this.#finish(this.#ended);
      return;
    }
    this.#grace ??= setTimeout(() => {
      this.#grace = undefined;
      // Held up by a slow reader: the grace begins again when it has caught up.
      if (this.#paused && this.#afterExit <= GRACE_BYTES) return;
      this.#drain(this.#afterExit);
    }, GRACE_MS);
  }

  /** A timer can be due before the pipes were read even once since the exit: they are read until a turn brings nothing. */
  #drain(before: number): void {
    setImmediate(() => {
      if (!this.#ended || this.exit || (this.#paused && this.#afterExit <= GRACE_BYTES)) return;
      if (this.#afterExit === before || this.#afterExit > GRACE_BYTES) this.#finish(this.#ended);
      else this.#drain(this.#afterExit);
    });
  }

  #finish(event: ExitEvent): void {
    clearTimeout(this.#grace);
    this.exit = { event, atMs: performance.now() };
    for (const stream of [...this.#attached]) {
      stream.onDrain = undefined;
      stream.onClose = undefined;
      stream.onData = undefined;
      stream.onEnd = undefined;
      stream.event(event);
      stream.end();
    }
    this.#attached.clear();
    // Grandchildren may go on writing; what they write is read and dropped, so that they are not killed by a closed pipe.
    this.#unblock();
    this.#onExit(this);
  }
}
