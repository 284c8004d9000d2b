/** The Process service over an agent that the test drives: events, fan-out, deadlines, input, selectors. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { type Client, Code, ConnectError, createClient, type Interceptor } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { KIND } from '../../src/channel/protocol.ts';
import {
  Process,
  type ProcessEvent,
  Signal,
  type StreamInputRequestSchema,
} from '../../src/contract/gen/process_pb.ts';
import { fakeAgent, type Served, serve, TOKEN, until } from './envd-harness.ts';

function clientOf(served: Served, options: { binary?: boolean; token?: string } = {}): Client<typeof Process> {
  const authenticate: Interceptor = (next) => (request) => {
    request.header.set('X-Access-Token', options.token ?? TOKEN);
    return next(request);
  };
  return createClient(
    Process,
    createConnectTransport({
      baseUrl: served.url,
      httpVersion: '1.1',
      useBinaryFormat: options.binary ?? false,
      interceptors: [authenticate],
    }),
  );
}

const text = (value: string): Uint8Array => Buffer.from(value);
const data = (value: string, kind: 0 | 1 | 2 | 3 = KIND.STDOUT) =>
  ({ type: 'data', kind, bytes: text(value) }) as const;

/** Reads the events of a stream in the background. */
function collect(stream: AsyncIterable<{ event?: ProcessEvent | undefined }>) {
  const events: ProcessEvent['event'][] = [];
  const done = (async () => {
    for await (const { event } of stream) events.push(event!.event);
  })();
  done.catch(() => {});
  return { events, done };
}

async function refusal(work: Promise<unknown>): Promise<ConnectError> {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof ConnectError);
    return error;
  }
  return assert.fail('it was not refused');
}

for (const binary of [false, true]) {
  test(`start: start, data, end (${binary ? 'binary' : 'JSON'})`, async () => {
    const agent = fakeAgent();
    await using served = await serve(agent);
    const client = clientOf(served, { binary });
    const run = collect(
      client.start({ process: { cmd: '/bin/sh', args: ['-c', 'x'], envs: { A: 'b' }, cwd: '/tmp' }, tag: 't' }),
    );
    await until(() => agent.started.length === 1, 'spawn');
    const process = agent.started[0]!;
    assert.deepEqual(process.request, {
      cmd: '/bin/sh',
      args: ['-c', 'x'],
      env: { A: 'b' },
      cwd: '/tmp',
      user: 'user',
      stdin: true,
      tag: 't',
    });
    process.emit(data('out'));
    process.emit(data('err', KIND.STDERR));
    process.emit(data('tty', KIND.PTY));
    process.emit({ type: 'exit', exitCode: 3 });
    await run.done;
    assert.deepEqual(
      run.events.map((event) => event.case),
      ['start', 'data', 'data', 'data', 'end'],
    );
    const output = run.events.slice(1, 4).map((event) => {
      assert.ok(event.case === 'data');
      return [event.value.output.case, Buffer.from(event.value.output.value!).toString()];
    });
    assert.deepEqual(output, [
      ['stdout', 'out'],
      ['stderr', 'err'],
      ['pty', 'tty'],
    ]);
    const end = run.events[4]!;
    assert.ok(end.case === 'end');
    assert.equal(end.value.exitCode, 3);
    assert.equal(end.value.exited, true);
    assert.equal(end.value.status, 'exit status 3');
    assert.equal(end.value.error, 'exit status 3');
  });
}

test('success has no error text; a signal has exit code -1 and is not an exit', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const good = collect(client.start({ process: { cmd: 'a' } }));
  const shot = collect(client.start({ process: { cmd: 'b' } }));
  await until(() => agent.started.length === 2, 'spawn');
  agent.started.find(({ request }) => request.cmd === 'a')!.emit({ type: 'exit', exitCode: 0 });
  const { pid } = agent.started.find(({ request }) => request.cmd === 'b')!;
  await client.sendSignal({ process: { selector: { case: 'pid', value: pid } }, signal: Signal.SIGKILL });
  await Promise.all([good.done, shot.done]);
  const ends = [good, shot].map(({ events }) => {
    const end = events.at(-1)!;
    assert.ok(end.case === 'end');
    const { exitCode, exited, status, error } = end.value;
    return { exitCode, exited, status, error };
  });
  assert.deepEqual(ends, [
    { exitCode: 0, exited: true, status: 'exit status 0', error: undefined },
    { exitCode: -1, exited: false, status: 'signal: killed', error: 'signal: killed' },
  ]);
});

test('what a command may not be is refused by name', async () => {
  await using served = await serve(fakeAgent());
  const client = clientOf(served);
  const start = (request: Parameters<typeof client.start>[0]) => refusal(collect(client.start(request)).done);
  assert.equal((await start({})).code, Code.InvalidArgument);
  assert.equal((await start({ process: { cmd: '' } })).code, Code.InvalidArgument);
  assert.equal((await start({ process: { cmd: 'a\0b' } })).code, Code.InvalidArgument);
  assert.equal((await start({ process: { cmd: 'a', envs: { 'A=B': 'c' } } })).code, Code.InvalidArgument);
  assert.equal(
    (await start({ process: { cmd: 'a' }, pty: { size: { cols: 0, rows: 4 } } })).code,
    Code.InvalidArgument,
  );
});

test('several followers each get the output; one that joins later gets what comes later', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const first = collect(client.start({ process: { cmd: 'a' }, tag: 'job' }));
  await until(() => first.events.length === 1, 'start event');
  const process = agent.started[0]!;
  process.emit(data('1'));
  await until(() => first.events.length === 2, 'first output');
  const byPid = collect(client.connect({ process: { selector: { case: 'pid', value: process.pid } } }));
  const byTag = collect(client.connect({ process: { selector: { case: 'tag', value: 'job' } } }));
  await until(() => byPid.events.length === 1 && byTag.events.length === 1, 'followers');
  process.emit(data('2'));
  process.emit({ type: 'exit', exitCode: 0 });
  await Promise.all([first.done, byPid.done, byTag.done]);
  const seen = [first, byPid, byTag].map(({ events }) =>
    events
      .flatMap((event) => (event.case === 'data' ? [Buffer.from(event.value.output.value!).toString()] : []))
      .join(''),
  );
  assert.deepEqual(seen, ['12', '2', '2']);
  assert.equal(process.attached, 1, 'one agent stream serves them all');
});

test('a follower that does not read holds the process back and not the memory', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const response = await fetch(`${served.url}/process.Process/Start`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/connect+json', 'X-Access-Token': TOKEN },
    body: envelope({ process: { cmd: 'yes' } }),
  });
  await until(() => agent.started.length === 1, 'spawn');
  const process = agent.started[0]!;
  const piece = Buffer.alloc(65_536, 'y');
  const total = 2_000;
  for (let i = 0; i < total; i++) process.emit({ type: 'data', kind: KIND.STDOUT, bytes: piece });
  let before = -1;
  while (before !== process.taken) {
    before = process.taken;
    await sleep(150);
  }
  assert.ok(process.taken < 32 * 1024 * 1024, `${process.taken} bytes were taken for one who reads nothing`);
  process.emit({ type: 'exit', exitCode: 0 });
  let bytes = 0;
  for await (const chunk of response.body!) bytes += chunk.byteLength;
  assert.equal(process.taken, total * piece.length, 'all of it came once it was read');
  assert.ok(bytes > (total * piece.length * 4) / 3);
});

test('silence is filled with keepalives', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const run = collect(client.start({ process: { cmd: 'a' } }, { headers: { 'Keepalive-Ping-Interval': '1' } }));
  await until(() => run.events.length === 3, 'two keepalives');
  assert.deepEqual(
    run.events.map((event) => event.case),
    ['start', 'keepalive', 'keepalive'],
  );
  agent.started[0]!.emit({ type: 'exit', exitCode: 0 });
  await run.done;
});

test('the deadline of start kills the process and says so; that of connect only ends the call', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const run = collect(client.start({ process: { cmd: 'a' } }, { timeoutMs: 700 }));
  await until(() => agent.started.length === 1, 'spawn');
  const selector = { selector: { case: 'pid', value: agent.started[0]!.pid } } as const;
  const late = await refusal(collect(client.connect({ process: selector }, { timeoutMs: 100 })).done);
  assert.equal(late.code, Code.DeadlineExceeded);
  assert.deepEqual(agent.started[0]!.signals, []);
  const follower = collect(client.connect({ process: selector }));
  const error = await refusal(run.done);
  assert.equal(error.code, Code.DeadlineExceeded);
  await until(() => agent.started[0]!.signals.length > 0, 'kill');
  assert.deepEqual(agent.started[0]!.signals, ['SIGKILL']);
  await follower.done;
  assert.equal(follower.events.at(-1)?.case, 'end');
});

test('the server ends a call at its deadline even if the client does not', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const response = await fetch(`${served.url}/process.Process/Start`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/connect+json', 'X-Access-Token': TOKEN, 'Connect-Timeout-Ms': '200' },
    body: envelope({ process: { cmd: 'sleep' } }),
  });
  assert.equal(response.status, 200);
  const body = Buffer.from(await response.arrayBuffer());
  assert.match(body.toString('latin1'), /\{"error":\{"code":"deadline_exceeded"/);
  await until(() => agent.started[0]!.signals.length > 0, 'kill');
});

test('a client that leaves does not end the process, yet its deadline still does', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const leaver = new AbortController();
  const run = collect(client.start({ process: { cmd: 'a' } }, { signal: leaver.signal }));
  await until(() => run.events.length === 1, 'start');
  leaver.abort();
  await assert.rejects(run.done);
  const process = agent.started[0]!;
  assert.deepEqual(process.signals, []);
  await until(() => process.attached === 0, 'the output is let go');
  const again = collect(client.connect({ process: { selector: { case: 'pid', value: process.pid } } }));
  await until(() => again.events.length === 1, 'joined again');
  process.emit({ type: 'exit', exitCode: 0 });
  await again.done;
  assert.equal(again.events.at(-1)?.case, 'end');

  const limited = new AbortController();
  const timed = collect(client.start({ process: { cmd: 'b' } }, { signal: limited.signal, timeoutMs: 600 }));
  await until(() => timed.events.length === 1, 'start');
  limited.abort();
  await until(() => agent.started[1]!.signals.length > 0, 'killed at the deadline');
});

test('the end of a process reaches who joins just after it', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const attach = agent.attach.bind(agent);
  agent.attach = async (which) => {
    const process = await attach(which);
    agent.started[0]!.emit({ type: 'exit', exitCode: 7 });
    return process;
  };
  await agent.spawn({ cmd: 'a', args: [], stdin: false });
  const late = collect(client.connect({ process: { selector: { case: 'pid', value: agent.started[0]!.pid } } }));
  await late.done;
  assert.deepEqual(
    late.events.map((event) => event.case),
    ['start', 'end'],
  );
});

test('input: bytes in order, to who can take it', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const shell = collect(client.start({ process: { cmd: 'a' }, tag: 'shell' }));
  const closed = collect(client.start({ process: { cmd: 'b' }, stdin: false }));
  const terminal = collect(client.start({ process: { cmd: 'c' }, pty: { size: { cols: 100, rows: 30 } } }));
  const blind = collect(client.start({ process: { cmd: 'd' }, pty: { size: { cols: 0, rows: 0 } } }));
  await until(() => [shell, closed, terminal, blind].every(({ events }) => events.length === 1), 'started');
  const byName = (cmd: string) => agent.started.find(({ request }) => request.cmd === cmd)!;
  const pid = (value: number) => ({ selector: { case: 'pid', value } }) as const;
  const shellByTag = { selector: { case: 'tag', value: 'shell' } } as const;
  const stdin = (value: string) => ({ input: { case: 'stdin', value: text(value) } }) as const;
  const pty = (value: string) => ({ input: { case: 'pty', value: text(value) } }) as const;
  assert.deepEqual(byName('c').request.pty, { cols: 100, rows: 30 });
  assert.deepEqual(byName('d').request.pty, { cols: 80, rows: 24 }, 'of a client without a terminal');

  await client.sendInput({ process: shellByTag, input: stdin('one ') });
  await client.streamInput(
    (async function* (): AsyncGenerator<MessageInitShape<typeof StreamInputRequestSchema>> {
      yield { event: { case: 'start', value: { process: pid(byName('a').pid) } } };
      yield { event: { case: 'data', value: { input: stdin('two ') } } };
      yield { event: { case: 'keepalive', value: {} } } as const;
      yield { event: { case: 'data', value: { input: stdin('three') } } } as const;
    })(),
  );
  assert.equal(Buffer.concat(byName('a').stdin).toString(), 'one two three');
  await client.sendInput({ process: pid(byName('c').pid), input: pty('ls\n') });
  assert.equal(Buffer.concat(byName('c').stdin).toString(), 'ls\n');

  const refused = async (process: Parameters<typeof client.sendInput>[0]['process'], input: object) =>
    (await refusal(client.sendInput({ process, input } as Parameters<typeof client.sendInput>[0]))).code;
  assert.equal(await refused(pid(byName('b').pid), stdin('x')), Code.Internal);
  assert.equal(await refused(pid(byName('a').pid), pty('x')), Code.Internal);
  assert.equal(await refused(pid(byName('c').pid), stdin('x')), Code.Internal);
  assert.equal(await refused(pid(4_242), stdin('x')), Code.NotFound);
  assert.equal(await refused({ selector: { case: 'tag', value: 'nope' } }, stdin('x')), Code.NotFound);
  assert.equal(await refused({}, stdin('x')), Code.InvalidArgument);
  assert.equal(await refused(pid(byName('a').pid), {}), Code.InvalidArgument);
  assert.equal((await refusal(client.streamInput((async function* () {})()))).code, Code.InvalidArgument);

  await client.closeStdin({ process: shellByTag });
  assert.equal(byName('a').stdinClosed, true);
  assert.equal(await refused(shellByTag, stdin('x')), Code.Internal);
  assert.equal((await refusal(client.closeStdin({ process: pid(byName('c').pid) }))).code, Code.Internal);
});

test('list, update, signals', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const run = collect(client.start({ process: { cmd: 'a', args: ['b'], cwd: '/x' }, tag: 't' }));
  await until(() => run.events.length === 1, 'started');
  const { processes } = await client.list({});
  assert.equal(processes.length, 1);
  assert.equal(processes[0]?.tag, 't');
  assert.deepEqual(
    [processes[0]?.config?.cmd, processes[0]?.config?.args, processes[0]?.config?.cwd],
    ['a', ['b'], '/x'],
  );
  const byTag = { selector: { case: 'tag', value: 't' } } as const;
  await client.update({ process: byTag, pty: { size: { cols: 10, rows: 10 } } });
  await client.update({ process: byTag, pty: { size: { cols: 0, rows: 0 } } });
  await client.update({ process: byTag });
  const nobody = { selector: { case: 'pid', value: 9_999 } } as const;
  assert.equal((await refusal(client.update({ process: nobody }))).code, Code.NotFound);
  assert.equal((await refusal(client.sendSignal({ process: nobody, signal: Signal.SIGTERM }))).code, Code.NotFound);
  assert.equal((await refusal(client.sendSignal({ process: byTag }))).code, Code.InvalidArgument);
  await client.sendSignal({ process: byTag, signal: Signal.SIGTERM });
  assert.deepEqual(agent.started[0]?.signals, ['SIGTERM']);
});

test('the user of Basic authentication is who runs it', async () => {
  const agent = fakeAgent();
  await using served = await serve(agent);
  const client = clientOf(served);
  const as = (user: string) => ({ headers: { Authorization: `Basic ${Buffer.from(`${user}:`).toString('base64')}` } });
  const run = collect(client.start({ process: { cmd: 'a' } }, as('root')));
  await until(() => run.events.length === 1, 'started');
  assert.equal(agent.started[0]?.request.user, 'root');
  const error = await refusal(collect(client.start({ process: { cmd: 'a' } }, as('eve'))).done);
  assert.equal(error.code, Code.Unauthenticated);
  assert.match(error.rawMessage, /invalid username: 'eve'/);
});

test('a wrong token is unauthenticated to a Connect client, in calls and in streams', async () => {
  await using served = await serve(fakeAgent());
  for (const binary of [false, true]) {
    const client = clientOf(served, { binary, token: 'wrong' });
    assert.equal((await refusal(client.list({}))).code, Code.Unauthenticated);
    assert.equal((await refusal(collect(client.start({ process: { cmd: 'a' } })).done)).code, Code.Unauthenticated);
  }
});

test('a new envd knows the processes that another one started', async () => {
  const agent = fakeAgent();
  const before = await serve(agent);
  const gone = collect(clientOf(before).start({ process: { cmd: 'a' }, tag: 'keeper' }));
  await until(() => gone.events.length === 1, 'started');
  await before[Symbol.asyncDispose]();
  await assert.rejects(gone.done, 'the stream is cut');

  await using after = await serve(agent);
  const client = clientOf(after);
  const byTag = { selector: { case: 'tag', value: 'keeper' } } as const;
  await client.sendInput({ process: byTag, input: { input: { case: 'stdin', value: text('hi') } } });
  assert.equal(Buffer.concat(agent.started[0]!.stdin).toString(), 'hi');
  const joined = collect(client.connect({ process: byTag }));
  await until(() => joined.events.length === 1, 'joined');
  agent.started[0]!.emit(data('still here'));
  agent.started[0]!.emit({ type: 'exit', exitCode: 0 });
  await joined.done;
  assert.equal(joined.events.length, 3);
});

test('a closed envd answers 502 in the words of a dead sandbox', async () => {
  await using served = await serve(fakeAgent());
  served.envd.close(new Error('killed'));
  for (const path of ['/health', '/process.Process/List', '/files?path=x', '/nope']) {
    const response = await fetch(served.url + path);
    assert.equal(response.status, 502);
    assert.deepEqual(await response.json(), { sandboxId: 'sbx1', message: 'The sandbox was not found', code: 502 });
  }
});

function envelope(message: object): Buffer {
  const json = Buffer.from(JSON.stringify(message));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(json.length, 1);
  return Buffer.concat([head, json]);
}
