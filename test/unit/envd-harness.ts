/** Envd on a loopback port, over an agent that lives in memory. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { posix } from 'node:path';
import { type AgentClient, AgentError, type AgentProcess, type ProcessOutput } from '../../src/channel/agent.ts';
import type { FileEntry, SpawnRequest, WatchEvent } from '../../src/channel/protocol.ts';
import { createEnvd, type Envd, type EnvdSandbox } from '../../src/envd/envd.ts';
import { silentLog } from '../../src/telemetry/log.ts';

export const TOKEN = '0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0';

export interface Served extends AsyncDisposable {
  readonly url: string;
  readonly envd: Envd;
  readonly server: Server;
}

/** Serves `agent` as sandbox `sbx1`, secured with TOKEN unless `accessToken: undefined` is given. */
export async function serve(agent: AgentClient, options: Partial<EnvdSandbox> = {}): Promise<Served> {
  const sandbox: EnvdSandbox = {
    sandboxID: 'sbx1',
    templateID: 'base',
    accessToken: TOKEN,
    agent: () => agent,
    env: { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: 'sbx1' },
    defaultUser: 'user',
    ...options,
  };
  const envd = createEnvd(sandbox, { log: silentLog });
  const server = createServer((req, res) => envd.handle(req, res));
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    envd,
    server,
    async [Symbol.asyncDispose]() {
      envd.close(new Error('the test is over'));
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

interface FakeFile {
  readonly bytes: Buffer;
  readonly metadata: Readonly<Record<string, string>>;
  readonly user: string;
}

/** A process that the test drives. */
export interface FakeProcess {
  readonly pid: number;
  readonly request: Omit<SpawnRequest, 'op'>;
  readonly stdin: Uint8Array[];
  readonly signals: string[];
  stdinClosed: boolean;
  attached: number;
  /** Bytes of output taken by the host. */
  taken: number;
  emit(item: ProcessOutput): void;
}

export interface FakeAgent extends AgentClient {
  readonly files: Map<string, FakeFile>;
  readonly started: FakeProcess[];
  readonly watches: { readonly path: string; emit(event: WatchEvent): void; closed: boolean }[];
  /** Bytes after which a write fails as a full disk does. */
  diskBytes: number;
}

export function fakeAgent(): FakeAgent {
  const files = new Map<string, FakeFile>();
  const started: FakeProcess[] = [];
  const outputs = new Map<number, Set<Channel<ProcessOutput>>>();
  const watches: FakeAgent['watches'] = [];
  const resolve = (path: string): string => posix.resolve('/home/user', path.replace(/^~\/?/, ''));
  const userOf = (user = 'user'): string => {
    if (!['user', 'root'].includes(user)) throw new AgentError('unauthenticated', `invalid username: '${user}'`);
    return user;
  };
  const entryOf = (path: string): FileEntry => {
    const file = files.get(path);
    const directory = [...files.keys()].some((name) => name.startsWith(`${path === '/' ? '' : path}/`));
    if (!file && !directory && path !== '/home/user')
      throw new AgentError('not_found', `path '${path}' does not exist`);
    return {
      name: posix.basename(path),
      path,
      type: file ? 'file' : 'directory',
      size: file?.bytes.length ?? 4_096,
      mode: file ? 0o644 : 0o755,
      permissions: file ? '-rw-r--r--' : 'drwxr-xr-x',
      owner: file?.user ?? 'user',
      group: file?.user ?? 'user',
      modifiedMs: 1_700_000_000_123,
      ...(file && Object.keys(file.metadata).length > 0 ? { metadata: file.metadata } : {}),
    };
  };
  const processOn = (process: FakeProcess): AgentProcess => {
    const output = new Channel<ProcessOutput>((item) => {
      if (item.type === 'data') process.taken += item.bytes.byteLength;
    });
    outputs.get(process.pid)!.add(output);
    process.attached += 1;
    return {
      pid: process.pid,
      output,
      async writeStdin(bytes) {
        process.stdin.push(bytes);
      },
      async closeStdin() {
        process.stdinClosed = true;
      },
      detach() {
        if (outputs.get(process.pid)!.delete(output)) process.attached -= 1;
      },
    };
  };
  const unknown = (pid: number): AgentError => new AgentError('not_found', `process with pid ${pid} not found`);

  const agent: FakeAgent = {
    files,
    started,
    watches,
    diskBytes: Number.POSITIVE_INFINITY,
    hello: { version: 'fake', pid: 1, clockMs: 0 },
    closed: new Promise(() => {}),
    operations: 0,
    close() {},
    async ping() {},
    identity: async () => ({ hostname: 'fake' }),
    async mountVolumes() {},
    async quiesce() {},
    sync: async () => true,
    hooks: async () => ({ ran: [], left: 0 }),
    metrics: async () => ({
      cpuCount: 2,
      cpuUsedPct: 12.5,
      memTotal: 1024 ** 3,
      memUsed: 512 * 1024 ** 2,
      memCache: 1,
      diskTotal: 10,
      diskUsed: 5,
    }),
    async spawn(request) {
      userOf(request.user);
      const process: FakeProcess = {
        pid: 100 + started.length,
        request,
        stdin: [],
        signals: [],
        stdinClosed: false,
        attached: 0,
        taken: 0,
        emit: (item) => {
          for (const output of outputs.get(process.pid)!) output.push(item);
        },
      };
      started.push(process);
      outputs.set(process.pid, new Set());
      return processOn(process);
    },
    async attach(which) {
      const process = started.find((one) => ('pid' in which ? one.pid === which.pid : one.request.tag === which.tag));
      if (!process) throw unknown('pid' in which ? which.pid : -1);
      return processOn(process);
    },
    processes: async () =>
      started.map(({ pid, request }) => ({
        pid,
        cmd: request.cmd,
        args: request.args,
        env: request.env ?? {},
        cwd: request.cwd ?? '/home/user',
        user: request.user ?? 'user',
        ...(request.tag === undefined ? {} : { tag: request.tag }),
        pty: request.pty !== undefined,
        stdin: request.stdin,
        service: false,
      })),
    async signal(pid, signal) {
      const process = started.find((one) => one.pid === pid);
      if (!process) throw unknown(pid);
      process.signals.push(signal);
      process.emit({ type: 'exit', exitCode: -1, signal: signal === 'SIGKILL' ? 'killed' : 'terminated' });
    },
    async resize(pid) {
      if (!started.some((one) => one.pid === pid)) throw unknown(pid);
    },
    async stat(path, user) {
      userOf(user);
      return entryOf(resolve(path));
    },
    async list(path) {
      const root = resolve(path);
      entryOf(root);
      return [...files.keys()].filter((name) => name.startsWith(`${root}/`)).map(entryOf);
    },
    async mkdir(path) {
      throw new AgentError('already_exists', `path '${resolve(path)}' exists`);
    },
    async move(source, destination) {
      const file = files.get(resolve(source));
      if (!file) throw new AgentError('not_found', `path '${resolve(source)}' does not exist`);
      files.delete(resolve(source));
      files.set(resolve(destination), file);
      return entryOf(resolve(destination));
    },
    async remove(path) {
      files.delete(resolve(path));
    },
    async read(path, options = {}) {
      userOf(options.user);
      if (path === '/proc/mounts') path = '/proc-mounts';
      const entry = entryOf(resolve(path));
      if (entry.type === 'directory') throw new AgentError('invalid_argument', `path '${entry.path}' is a directory`);
      const { start = 0, length = entry.size } = options;
      const bytes = files.get(entry.path)!.bytes.subarray(start, start + length);
      async function* body() {
        for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
      }
      return { entry, body: body(), cancel() {} };
    },
    async write(path, body, options = {}) {
      const user = userOf(options.user);
      const chunks: Uint8Array[] = [];
      let size = 0;
      for await (const chunk of body) {
        chunks.push(chunk);
        size += chunk.byteLength;
        if (size > agent.diskBytes) throw new AgentError('resource_exhausted', 'not enough disk space');
      }
      files.set(resolve(path), { bytes: Buffer.concat(chunks), metadata: options.metadata ?? {}, user });
      return entryOf(resolve(path));
    },
    async compose(sources, destination, user) {
      const bytes = Buffer.concat(
        sources.map((source) => {
          const file = files.get(resolve(source));
          if (!file) throw new AgentError('not_found', `path '${resolve(source)}' does not exist`);
          return file.bytes;
        }),
      );
      for (const source of sources) files.delete(resolve(source));
      files.set(resolve(destination), { bytes, metadata: {}, user: userOf(user) });
      return entryOf(resolve(destination));
    },
    async watch(path) {
      entryOf(resolve(path));
      const events = new Channel<WatchEvent>();
      const watch = { path: resolve(path), emit: (event: WatchEvent) => events.push(event), closed: false };
      watches.push(watch);
      return {
        events,
        close() {
          watch.closed = true;
          events.end();
        },
      };
    },
    async dial() {
      throw new AgentError('unavailable', 'nothing listens there');
    },
  };
  files.set('/proc-mounts', { bytes: Buffer.from('/dev/vda / ext4 rw 0 0\n'), metadata: {}, user: 'root' });
  return agent;
}

/** A queue that is read by iterating it. Ends after an item that is an exit. */
class Channel<T> implements AsyncIterable<T> {
  readonly #items: T[] = [];
  readonly #onTaken: (item: T) => void;
  #wake: (() => void) | undefined;
  #ended = false;

  constructor(onTaken: (item: T) => void = () => {}) {
    this.#onTaken = onTaken;
  }

  push(item: T): void {
    this.#items.push(item);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) {
        this.#onTaken(item);
        yield item;
        if ((item as { type?: unknown }).type === 'exit') return;
      } else if (this.#ended) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

/** Waits until `condition` holds; fails after `ms`. */
export async function until(condition: () => boolean, what: string, ms = 5_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Everything that comes, as one. */
export async function bytesOf(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
