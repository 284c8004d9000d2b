/** Every call of envd's services by a client that speaks binary protobuf, as E2B's Python SDK does. */
import assert from 'node:assert/strict';
import { type Client, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { EventType, Filesystem, FileType } from '../../src/contract/gen/filesystem_pb.ts';
import { Process, Signal } from '../../src/contract/gen/process_pb.ts';
import { eventually } from '../behaviours/support/asks.ts';

export interface EnvdContext {
  readonly process: Client<typeof Process>;
  readonly files: Client<typeof Filesystem>;
  /** A folder of the row's own. */
  readonly at: string;
}

export type EnvdRow = (context: EnvdContext) => Promise<void>;

export const ENVD_CALLS: readonly string[] = [Process, Filesystem].flatMap(({ typeName, methods }) =>
  methods.map(({ name }) => `${typeName}.${name}`),
);

/** @param onCall is told of every call */
export function envdClients(
  baseUrl: string,
  sandbox: { readonly sandboxID: string; readonly envdAccessToken: string },
  onCall: (call: string) => void,
): Pick<EnvdContext, 'process' | 'files'> {
  const addressed: Interceptor = (next) => (request) => {
    onCall(`${request.service.typeName}.${request.method.name}`);
    request.header.set('E2b-Sandbox-Id', sandbox.sandboxID);
    request.header.set('E2b-Sandbox-Port', '49983');
    request.header.set('X-Access-Token', sandbox.envdAccessToken);
    return next(request);
  };
  const transport = createConnectTransport({
    baseUrl,
    httpVersion: '1.1',
    useBinaryFormat: true,
    interceptors: [addressed],
  });
  return { process: createClient(Process, transport), files: createClient(Filesystem, transport) };
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const byPid = (pid: number) => ({ process: { selector: { case: 'pid', value: pid } } }) as const;

/** Runs a command; `started` gives its pid before it ends. */
function run({ process }: EnvdContext, cmd: string, args: string[], more: object = {}) {
  const told = Promise.withResolvers<number>();
  const ended = (async () => {
    let output = '';
    for await (const { event } of process.start({ process: { cmd, args }, ...more })) {
      const { event: one } = event!;
      if (one.case === 'start') told.resolve(one.value.pid);
      if (one.case === 'data') output += Buffer.from(one.value.output.value!).toString();
      if (one.case === 'end') return { output, status: one.value.status, code: one.value.exitCode };
    }
    throw new Error('the stream ended without an end');
  })();
  ended.catch(told.reject);
  return { started: told.promise, ended };
}

async function touch(context: EnvdContext, name: string): Promise<string> {
  const path = `${context.at}/${name}`;
  const { ended } = run(context, 'sh', ['-c', `printf 12345 > ${path}`]);
  assert.equal((await ended).code, 0);
  return path;
}

export const ENVD_ROWS: Readonly<Record<string, EnvdRow>> = {
  'process.Process.Start': async (context) => {
    const { ended } = run(context, 'sh', ['-c', 'echo out; echo err >&2; exit 3']);
    const { output, code, status } = await ended;
    assert.deepEqual([output.split('\n').sort(), code, status], [['', 'err', 'out'], 3, 'exit status 3']);
  },
  'process.Process.Connect': async (context) => {
    const pid = await run(context, 'cat', []).started;
    const joined: string[] = [];
    const done = (async () => {
      for await (const { event } of context.process.connect(byPid(pid))) {
        joined.push(event!.event.case!);
        if (event!.event.case === 'start') await context.process.sendSignal({ ...byPid(pid), signal: Signal.SIGKILL });
      }
    })();
    await done;
    assert.deepEqual([joined[0], joined.at(-1)], ['start', 'end']);
  },
  'process.Process.List': async (context) => {
    const { started, ended } = run(context, 'sleep', ['1000'], { tag: 'listed' });
    const pid = await started;
    const { processes } = await context.process.list({});
    const found = processes.find((one) => one.pid === pid);
    assert.deepEqual([found?.tag, found?.config?.cmd, found?.config?.args], ['listed', 'sleep', ['1000']]);
    await context.process.sendSignal({ ...byPid(pid), signal: Signal.SIGKILL });
    await ended;
  },
  'process.Process.Update': async (context) => {
    const size = (cols: number, rows: number) => ({ pty: { size: { cols, rows } } });
    const { started, ended } = run(context, 'sh', ['-c', 'read x; stty size'], size(80, 24));
    const pid = await started;
    await context.process.update({ ...byPid(pid), ...size(101, 33) });
    await context.process.sendInput({ ...byPid(pid), input: { input: { case: 'pty', value: bytes('\n') } } });
    assert.match((await ended).output, /33 101/);
  },
  'process.Process.SendInput': async (context) => {
    const { started, ended } = run(context, 'head', ['-n', '1']);
    await context.process.sendInput({
      ...byPid(await started),
      input: { input: { case: 'stdin', value: bytes('ü\n') } },
    });
    assert.equal((await ended).output, 'ü\n');
  },
  'process.Process.StreamInput': async (context) => {
    const { started, ended } = run(context, 'head', ['-n', '2']);
    const pid = await started;
    await context.process.streamInput(
      (async function* () {
        yield { event: { case: 'start', value: byPid(pid) } } as const;
        for (const line of ['a\n', 'b\n'])
          yield {
            event: { case: 'data', value: { input: { input: { case: 'stdin', value: bytes(line) } } } },
          } as const;
      })(),
    );
    assert.equal((await ended).output, 'a\nb\n');
  },
  'process.Process.SendSignal': async (context) => {
    const { started, ended } = run(context, 'sleep', ['1000']);
    await context.process.sendSignal({ ...byPid(await started), signal: Signal.SIGTERM });
    assert.deepEqual(await ended, { output: '', status: 'signal: terminated', code: -1 });
  },
  'process.Process.CloseStdin': async (context) => {
    const { started, ended } = run(context, 'cat', []);
    await context.process.closeStdin(byPid(await started));
    assert.equal((await ended).code, 0);
  },
  'filesystem.Filesystem.Stat': async (context) => {
    const { entry } = await context.files.stat({ path: await touch(context, 'a') });
    assert.deepEqual([entry?.name, entry?.type, entry?.size, entry?.owner], ['a', FileType.FILE, 5n, 'user']);
    await assert.rejects(context.files.stat({ path: `${context.at}/none` }), ConnectError);
  },
  'filesystem.Filesystem.MakeDir': async ({ files, at }) => {
    assert.equal((await files.makeDir({ path: `${at}/a/b` })).entry?.type, FileType.DIRECTORY);
  },
  'filesystem.Filesystem.Move': async (context) => {
    const source = await touch(context, 'old');
    const { entry } = await context.files.move({ source, destination: `${context.at}/new` });
    assert.equal(entry?.path, `${context.at}/new`);
  },
  'filesystem.Filesystem.ListDir': async (context) => {
    await touch(context, 'one');
    await context.files.makeDir({ path: `${context.at}/sub` });
    const { entries } = await context.files.listDir({ path: context.at, depth: 1 });
    assert.deepEqual(entries.map(({ name }) => name).sort(), ['one', 'sub']);
  },
  'filesystem.Filesystem.Remove': async (context) => {
    const path = await touch(context, 'gone');
    await context.files.remove({ path });
    await assert.rejects(context.files.stat({ path }), ConnectError);
  },
  'filesystem.Filesystem.WatchDir': async (context) => {
    const abort = new AbortController();
    const seen: string[] = [];
    try {
      for await (const { event } of context.files.watchDir({ path: context.at }, { signal: abort.signal })) {
        if (event.case === 'start') await touch(context, 'seen');
        if (event.case !== 'filesystem') continue;
        if (event.value.type === EventType.CREATE) seen.push(event.value.name);
        if (seen.includes('seen')) abort.abort();
      }
    } catch (error) {
      if (!abort.signal.aborted) throw error;
    }
    assert.ok(seen.includes('seen'), seen.join());
  },
  'filesystem.Filesystem.CreateWatcher': async ({ files, at }) => {
    const { watcherId } = await files.createWatcher({ path: at });
    assert.notEqual(watcherId, '');
    await files.removeWatcher({ watcherId });
  },
  'filesystem.Filesystem.GetWatcherEvents': async (context) => {
    const { watcherId } = await context.files.createWatcher({ path: context.at });
    await touch(context, 'polled');
    const names: string[] = [];
    await eventually(
      'the poll tells',
      async () => {
        names.push(...(await context.files.getWatcherEvents({ watcherId })).events.map(({ name }) => name));
        return names;
      },
      (told) => told.includes('polled'),
    );
    await context.files.removeWatcher({ watcherId });
  },
  'filesystem.Filesystem.RemoveWatcher': async ({ files, at }) => {
    const { watcherId } = await files.createWatcher({ path: at });
    await files.removeWatcher({ watcherId });
    await assert.rejects(files.getWatcherEvents({ watcherId }), ConnectError);
  },
};
