/**
 * A host, an internet and guests, each a network namespace made for one test file and gone after it. The file is run
 * again inside the host's namespace, so that the fabric under test takes that for its host and no rule, route or switch
 * of the real one is touched.
 */
import assert from 'node:assert/strict';
import { type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Attachment, PortKind } from '../../src/network/fabric.ts';

export const HOST_ADDRESS = '203.0.113.2';
export const WORLD_ADDRESS = '203.0.113.1';
/** Suites are run for each. */
export const KINDS: readonly PortKind[] = ['tap', 'namespace'];
const ENVIRONMENT = 'COPPICE_TEST_NETNS';

export interface SeenPacket {
  readonly family: 4 | 6;
  readonly source?: string;
  readonly destination?: string;
  readonly protocol?: string;
  readonly sport?: number;
  readonly dport?: number;
}

/** Answers one JSON line per JSON line. */
export interface Puppet {
  ask(command: Record<string, unknown>): Promise<Record<string, unknown>>;
  end(): Promise<void>;
}

export interface NetworkTest {
  /** For createNftablesFabric; unique to this run. */
  readonly instance: string;
  readonly stateFolder: string;
  /** Starts the internet's end: echo on port 80 of every address, and a record of what arrives. */
  world(): Promise<Puppet>;
  /** Path of the namespace of the fabric of `instance`. */
  readonly fabricNamespace: string;
  /** A guest at the attachment: behind its tap, or in its namespace. */
  guest(attachment: Attachment): Promise<Puppet>;
  /** Makes one more namespace, gone after the file; returns its name. */
  namespace(label: string): string;
  /** Runs a command in the host's namespace; returns stdout. */
  onHost(...command: string[]): string;
  /** The same for a command that goes on; `output` is what it has written so far. */
  onHostLater(...command: string[]): { output(): string; end(): Promise<void> };
}

/**
 * Registers the tests that `define` makes, to run inside. To be called once in a file, as
 * `networkTest(import.meta.filename, (net) => { test(...) })`.
 */
export function networkTest(file: string, define: (net: NetworkTest) => void): void {
  const prefix = process.env[ENVIRONMENT];
  if (prefix !== undefined) define(insideOf(prefix));
  else test('in namespaces of its own', { timeout: 180_000 }, (t) => runInside(file, t.signal));
}

async function runInside(file: string, signal: AbortSignal): Promise<void> {
  assert.equal(process.geteuid?.(), 0, 'needs root');
  const prefix = `cpt${process.pid.toString(36)}`;
  try {
    mkdirSync(stateFolderOf(prefix), { mode: 0o700 });
    for (const name of ['host', 'world']) ip(`netns add ${prefix}-${name}`);
    ip(`-n ${prefix}-host link add h0 type veth peer name w0 netns ${prefix}-world`);
    for (const line of [`addr add ${HOST_ADDRESS}/24 dev h0`, 'link set h0 up', 'link set lo up'])
      ip(`-n ${prefix}-host ${line}`);
    // A socket answers only from an address that its host has; 8.8.8.8 is the second one that tests connect to.
    for (const line of [
      `addr add ${WORLD_ADDRESS}/24 dev w0`,
      'addr add 8.8.8.8/32 dev lo',
      'link set w0 up',
      'link set lo up',
    ])
      ip(`-n ${prefix}-world ${line}`);
    ip(`-n ${prefix}-host route add default via ${WORLD_ADDRESS}`);
    inHost(prefix, ['sysctl', '-q', '-w', 'net.ipv4.ip_forward=0']);

    const { NODE_TEST_CONTEXT: _, ...environment } = process.env;
    const args = [`--net=/run/netns/${prefix}-host`, process.execPath, '--disable-warning=ExperimentalWarning'];
    const child = spawn('nsenter', [...args, '--test-reporter=spec', file], {
      env: { ...environment, [ENVIRONMENT]: prefix },
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
      killSignal: 'SIGKILL',
    });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    child.stderr.on('data', (chunk) => {
      output += chunk;
    });
    const code = await new Promise((resolve, reject) => child.on('error', reject).on('close', resolve));
    assert.equal(code, 0, output);
    assert.match(output, /^ℹ pass [1-9]/m, output);
    if (process.env.COPPICE_TEST_VERBOSE) console.log(output);
  } finally {
    rmSync(stateFolderOf(prefix), { recursive: true, force: true });
    // The fabric's, those of its sandboxes, and the test's own.
    const fabric = `coppice-${instanceOf(prefix)}`;
    for (const name of readdirSync('/run/netns'))
      if (name === fabric || [fabric, prefix].some((owner) => name.startsWith(`${owner}-`))) ip(`netns del ${name}`);
  }
}

function insideOf(prefix: string): NetworkTest {
  const stateFolder = stateFolderOf(prefix);
  let guests = 0;
  const helper = (name: string) => join(import.meta.dirname, name);
  return {
    instance: instanceOf(prefix),
    stateFolder,
    fabricNamespace: `/run/netns/coppice-${instanceOf(prefix)}`,
    world: () => startPuppet(helper('netns-world.py'), [`/run/netns/${prefix}-world`, 'w0']),
    async guest(attachment) {
      const { kind, address, namespace, port } = attachment;
      if (kind === 'namespace') return startPuppet(helper('netns-guest.py'), [kind, address, namespace]);
      const name = `${prefix}-g${++guests}`;
      ip(`netns add ${name}`);
      return startPuppet(helper('netns-guest.py'), [kind, address, `/run/netns/${name}`, namespace, port]);
    },
    namespace(label) {
      ip(`netns add ${prefix}-${label}`);
      return `${prefix}-${label}`;
    },
    onHost: (...command) => inHost(prefix, command),
    onHostLater(...command) {
      const child = spawn('nsenter', [`--net=/run/netns/${prefix}-host`, ...command], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let output = '';
      child.stdout.on('data', (chunk) => {
        output += chunk;
      });
      const gone = new Promise<void>((resolve) => child.on('exit', () => resolve()));
      return {
        output: () => output,
        end() {
          child.kill('SIGKILL');
          return gone;
        },
      };
    },
  };
}

async function startPuppet(script: string, args: readonly string[]): Promise<Puppet> {
  const child: ChildProcessByStdio<Writable, Readable, null> = spawn('/usr/bin/python3', [script, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const line = await lines.next();
    if (line.done) throw new Error(`${script} ended`);
    return JSON.parse(line.value) as Record<string, unknown>;
  };
  await next();
  let last: Promise<unknown> = Promise.resolve();
  return {
    ask(command) {
      const turn = last.then(() => {
        child.stdin.write(`${JSON.stringify(command)}\n`);
        return next();
      });
      last = turn.catch(() => {});
      return turn;
    },
    async end() {
      if (child.exitCode !== null) return;
      const gone = new Promise((resolve) => child.on('exit', resolve));
      child.stdin.end();
      child.kill('SIGKILL');
      await gone;
    },
  };
}

/** Waits until `look` gives something, or fails after `ms`. */
export async function until<T>(what: string, look: () => Promise<T | undefined>, ms = 5000): Promise<T> {
  for (const end = performance.now() + ms; performance.now() < end; await sleep(20)) {
    const found = await look();
    if (found !== undefined) return found;
  }
  throw new Error(`${what}: not within ${ms} ms`);
}

function inHost(prefix: string, command: readonly string[]): string {
  const args = [`--net=/run/netns/${prefix}-host`, ...command];
  return execFileSync('nsenter', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function ip(line: string): void {
  execFileSync('ip', line.split(' '));
}

/** Made by the outer process, which also removes it. */
function stateFolderOf(prefix: string): string {
  return join(tmpdir(), `coppice-network-${prefix}`);
}

function instanceOf(prefix: string): string {
  return `t${prefix.slice(3)}`.slice(0, 8);
}
