/**
 * A program of a stranger: the official SDK with nothing but E2B_DOMAIN, E2B_API_KEY and NODE_EXTRA_CA_CERTS, in a process
 * of its own. The resolver alone is ours: `NAMES_UNDER` says whose names lead to the loopback, as wildcard DNS would.
 * Prints what it saw as one JSON object. `runDomainClient` starts it.
 */
import { execFile } from 'node:child_process';
import dns from 'node:dns';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ConnectionOpts } from 'e2b';

export interface DomainAnswers {
  readonly sandboxId: string;
  readonly host: string;
  readonly stdout: string;
  /** Of a file written by its signed link and read by another. */
  readonly file: string;
  readonly downloadUrl: string;
  /** What the server in the sandbox was asked as, and what came to it of the exchange. */
  readonly served: { readonly host: string; readonly proto: string };
  /** Milliseconds between the parts of an answer that takes its time. */
  readonly gapMs: number;
  readonly said: readonly string[];
  readonly closed: { readonly status: number; readonly type: string; readonly text: string };
  readonly listed: number;
  readonly byHeaders: number;
  readonly killed: boolean;
  readonly runningAfter: boolean;
  readonly dead: { readonly status: number; readonly text: string };
}

const SERVER = new URL('port-server.py', import.meta.url);
const BROWSER = { 'User-Agent': 'Mozilla/5.0 (X11)', Accept: 'text/html,*/*' };

async function visit(template: string, port: number): Promise<DomainAnswers> {
  const { Sandbox } = await import('e2b');
  const options: ConnectionOpts = { requestTimeoutMs: 60_000 };
  const sandbox = await Sandbox.create(template, options);
  try {
    const { stdout } = await sandbox.commands.run('echo hello');
    const form = new FormData();
    form.append('file', new Blob(['signed']), 'note.txt');
    const uploaded = await fetch(await sandbox.uploadUrl('note.txt'), { method: 'POST', body: form });
    if (!uploaded.ok) throw new Error(`upload: ${uploaded.status} ${await uploaded.text()}`);
    const downloadUrl = await sandbox.downloadUrl('note.txt');
    const file = await (await fetch(downloadUrl)).text();

    await sandbox.files.write('server.py', await readFile(SERVER, 'utf8'));
    await sandbox.commands.run(`exec python3 server.py ${port}`, { background: true, timeoutMs: 0 });
    const host = sandbox.getHost(port);
    const served = (await (await whenServed(`https://${host}/`)).json()) as DomainAnswers['served'];
    const closed = await fetch(`https://${sandbox.getHost(port + 1)}/`, { headers: BROWSER });
    const address = host.slice(host.indexOf('.') + 1);
    const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) };
    const byHeaders = await fetch(`https://sandbox.${address}/`, { headers });
    const answers = {
      sandboxId: sandbox.sandboxId,
      host,
      stdout,
      file,
      downloadUrl,
      served,
      gapMs: await gapOf(`https://${host}/slow`),
      said: await talk(`wss://${host}/socket`, ['one', 'two é']),
      closed: {
        status: closed.status,
        type: closed.headers.get('content-type') ?? '',
        text: await closed.text(),
      },
      listed: (await Sandbox.list(options).nextItems()).length,
      byHeaders: byHeaders.status,
    };
    await byHeaders.arrayBuffer();
    const killed = await sandbox.kill();
    const dead = await fetch(`https://${host}/`);
    return {
      ...answers,
      killed,
      runningAfter: await sandbox.isRunning(),
      dead: { status: dead.status, text: await dead.text() },
    };
  } finally {
    await sandbox.kill().catch(() => false);
  }
}

async function whenServed(url: string): Promise<Response> {
  for (let tries = 0; ; tries++) {
    const response = await fetch(url);
    if (response.status !== 502 || tries > 30) return response;
    await response.arrayBuffer();
    await sleep(200);
  }
}

async function gapOf(url: string): Promise<number> {
  const at: number[] = [];
  for await (const _chunk of (await fetch(url)).body!) at.push(performance.now());
  return at.at(-1)! - at[0]!;
}

/** With Node's own WebSocket. */
async function talk(url: string, words: readonly string[]): Promise<string[]> {
  const socket = new WebSocket(url);
  await once(socket, 'open');
  const said: string[] = [];
  for (const word of words) {
    const heard = once(socket, 'message');
    socket.send(word);
    const [event] = (await heard) as [{ readonly data: string }];
    said.push(event.data);
  }
  const closed = once(socket, 'close');
  socket.close();
  await closed;
  return said;
}

/** The names of the variables are those that the panel prints. */
export async function runDomainClient(
  env: { readonly E2B_DOMAIN: string; readonly E2B_API_KEY: string; readonly NODE_EXTRA_CA_CERTS: string },
  template: string,
  port: number,
): Promise<DomainAnswers> {
  const { NODE_TEST_CONTEXT: _, E2B_API_URL: __, E2B_SANDBOX_URL: ___, ...inherited } = process.env;
  const under = env.E2B_DOMAIN.replace(/:\d+$/, '');
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', import.meta.filename, template, String(port)],
    { env: { ...inherited, ...env, NAMES_UNDER: under }, timeout: 300_000, maxBuffer: 16 * 2 ** 20 },
  );
  return JSON.parse(stdout) as DomainAnswers;
}

if (import.meta.main) {
  const under = `.${process.env.NAMES_UNDER}`;
  const { lookup } = dns;
  const redirect = (name: string, ...rest: readonly unknown[]): unknown =>
    Reflect.apply(lookup, dns, [name.endsWith(under) ? '127.0.0.1' : name, ...rest]);
  Object.assign(dns, { lookup: redirect });
  process.stdout.write(JSON.stringify(await visit(process.argv[2]!, Number(process.argv[3]))));
  process.exit(0);
}
