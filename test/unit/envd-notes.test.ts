/** What is told of processes: line by line whatever the cuts, bounded, steering no terminal, and never a secret. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import fc from 'fast-check';
import type { ProcessOutput } from '../../src/channel/agent.ts';
import { KIND } from '../../src/channel/protocol.ts';
import { Process } from '../../src/contract/gen/process_pb.ts';
import { overhear } from '../../src/envd/process-notes.ts';
import { createRedactor } from '../../src/envd/redact.ts';
import type { EnvdSandbox } from '../../src/envd/sandbox.ts';
import { fakeAgent, serve, TOKEN, until } from './envd-harness.ts';

interface Told {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, string>>;
  readonly must: boolean;
}

function notebook() {
  const told: Told[] = [];
  const notes = {
    note: (level: string, message: string, fields: Told['fields']) =>
      void told.push({ level, message, fields, must: true }),
    line: (level: string, message: string, fields: Told['fields']) =>
      void told.push({ level, message, fields, must: false }),
  };
  return { told, notes };
}

function listen(env: Record<string, string> = {}, request = { cmd: 'echo', args: ['hi'], stdin: false }) {
  const { told, notes } = notebook();
  const sandbox = { sandboxID: 's', env, accessToken: TOKEN, notes } as unknown as EnvdSandbox;
  const hear = overhear(sandbox, 7, request)!;
  const out = (bytes: Uint8Array | string, kind: 1 | 2 | 3 = KIND.STDOUT): void =>
    hear({ type: 'data', kind, bytes: Buffer.from(bytes as string) });
  const exit = (item: Partial<Extract<ProcessOutput, { type: 'exit' }>> = {}): void =>
    hear({ type: 'exit', exitCode: 0, ...item });
  const lines = (): string[] => told.filter(({ must }) => !must).map(({ message }) => message);
  return { told, out, exit, lines };
}

test('a start, lines of both streams, an end', () => {
  const { told, out, exit } = listen();
  out('one\ntwo');
  out('oops\n', KIND.STDERR);
  out('!\r\n\n');
  out('rest');
  exit({ exitCode: 3 });
  const process = { logger: 'process', pid: '7' };
  assert.deepEqual(told, [
    { level: 'info', message: 'process started', fields: { ...process, command: 'echo hi' }, must: true },
    { level: 'info', message: 'one', fields: { ...process, stream: 'stdout' }, must: false },
    { level: 'warn', message: 'oops', fields: { ...process, stream: 'stderr' }, must: false },
    { level: 'info', message: 'two!', fields: { ...process, stream: 'stdout' }, must: false },
    { level: 'info', message: 'rest', fields: { ...process, stream: 'stdout' }, must: false },
    { level: 'warn', message: 'process ended', fields: { ...process, exitCode: '3' }, must: true },
  ]);
});

test('who was killed is told with its signal', () => {
  const { told, exit } = listen();
  exit({ exitCode: -1, signal: 'killed' });
  assert.deepEqual(told.at(-1), {
    ...{ level: 'warn', message: 'process ended', must: true },
    fields: { logger: 'process', pid: '7', signal: 'killed' },
  });
});

test('what a terminal shows is not told: it is what is typed, too', () => {
  const { out, exit, lines } = listen();
  out('password: hunter2 and more\n', KIND.PTY);
  exit();
  assert.deepEqual(lines(), []);
});

test('values of variables and tokens are taken out of commands and lines, across cuts', () => {
  const env = {
    TOKEN_OF_MINE: 'sk-0123456789',
    KEY: 'begin-line\nsecond-line-of-it',
    PATH: '/usr/bin:/bin',
    DEBUG: 'true',
    HERE: '/srv/app',
  };
  const request = {
    ...{ cmd: 'curl', args: ['-H', 'Authorization: Bearer sk-0123456789', '--token', 'of-this-process'] },
    ...{ env: { OWN: 'of-this-process' }, stdin: false },
  };
  const { told, out, exit, lines } = listen(env, request);
  out('got sk-01234');
  out('56789, true\nsecond-line-of-it\n');
  out(`${TOKEN} in /srv/app by /usr/bin:/bin\n`);
  exit();
  assert.equal(told[0]!.fields.command, 'curl -H Authorization: Bearer [redacted] --token [redacted]');
  assert.deepEqual(lines(), ['got [redacted], true', '[redacted]', '[redacted] in /srv/app by /usr/bin:/bin']);
});

test('the longer of two secrets goes first; a secret may hold what patterns mean', () => {
  const redact = createRedactor([{ A: 'secret-value', B: 'secret-value-longer', C: '(.*)+[x]$&' }], []);
  assert.equal(redact('secret-value-longer secret-value (.*)+[x]$&'), '[redacted] [redacted] [redacted]');
});

test('a line that does not end is told by its beginning, once, and holds no memory', () => {
  const { out, exit, lines } = listen();
  for (let count = 0; count < 1_000; count++) out('x'.repeat(10_000));
  out('\nnext\n');
  exit();
  assert.deepEqual(
    lines().map((line) => line.length),
    [4_096, 4],
  );
});

test('a secret where a long line is cut is not cut in two', () => {
  const secret = 's3cr3t-'.repeat(4);
  const { out, exit, lines } = listen({ SECRET: secret });
  out(`${'x'.repeat(4_090)}${secret}\n`);
  exit();
  assert.equal(lines()[0], `${'x'.repeat(4_090)}[redac`);
});

test('whatever the bytes and cuts: the same lines, printable, no longer than they may be', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 3_000 }),
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 20 }),
      (bytes, cuts) => {
        const whole = listen();
        whole.out(bytes);
        whole.exit();
        const cut = listen();
        for (let at = 0, turn = 0; at < bytes.length; turn++) {
          const length = cuts[turn % cuts.length]!;
          cut.out(bytes.subarray(at, at + length));
          at += length;
        }
        cut.exit();
        assert.deepEqual(cut.lines(), whole.lines());
        for (const line of cut.lines()) {
          assert.ok(line.length > 0 && line.length <= 4_096);
          assert.doesNotMatch(line, /[\x00-\x08\x0a-\x1f\x7f-\x9f]/);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('through envd: what is started by a caller is told, and what is followed later', async () => {
  const { told, notes } = notebook();
  const agent = fakeAgent();
  await using served = await serve(agent, { notes, accessToken: undefined });
  const client = createClient(Process, createConnectTransport({ baseUrl: served.url, httpVersion: '1.1' }));
  const events = client.start({ process: { cmd: 'sh', args: ['-c', 'x'], envs: { A: 'value-of-variable' } } });
  const reading = (async () => {
    for await (const _ of events);
  })();
  await until(() => agent.started.length === 1, 'it is started');
  agent.started[0]!.emit({ type: 'data', kind: KIND.STDOUT, bytes: Buffer.from('value-of-variable!\n') });
  agent.started[0]!.emit({ type: 'exit', exitCode: 0 });
  await reading;
  assert.deepEqual(
    told.map(({ message }) => message),
    ['process started', '[redacted]!', 'process ended'],
  );
  assert.ok(!JSON.stringify(told).includes('value-of-variable'));
});
