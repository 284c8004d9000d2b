/** `coppice start`: set up, serve, prove, wait for Ctrl-C, leave nothing behind. */
import { join } from 'node:path';
import { styleText } from 'node:util';
import type { BackendStatus, LeakReport } from '../contract/node-api.ts';
import { connectNodeApi } from '../contract/node-rpc/client.ts';
import { openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { accounts } from './accounts.ts';
import { openCertificates } from './certificates.ts';
import { apiUrl, type ClientEnvironment, clientEnvironment } from './client-environment.ts';
import { leadHere } from './lead-here.ts';
import { leaksOfHome } from './leaks.ts';
import { localKey } from './local-service.ts';
import { holdServiceLock } from './lock.ts';
import { oneHostHint, whereNamesLead } from './names.ts';
import { createProgress } from './progress.ts';
import { type Proof, prove } from './proof.ts';
import { fail, seconds } from './report.ts';
import { Service } from './service.ts';
import { setUp } from './set-up.ts';
import { readSettings, type SettingsOptions, withoutPort } from './settings.ts';

export interface StartOptions extends SettingsOptions {
  readonly once?: boolean;
  readonly json?: boolean;
  readonly proof: boolean;
}

/** The panel, for machines. */
interface Panel {
  readonly ok: boolean;
  readonly backend: string;
  readonly accelerator: string;
  /** Every kind of isolation on offer here; the first is the default's. */
  readonly backends: readonly BackendStatus[];
  readonly ready_ms: number;
  readonly create_ms: number | null;
  readonly first_exec_ms: number | null;
  readonly first_run_code_ms: number | null;
  readonly receipt: Readonly<Record<string, number>>;
  readonly proof: Proof['lines'];
  readonly notices: readonly string[];
  readonly env: ClientEnvironment;
  readonly leaks: LeakReport | null;
  readonly reason?: string;
}

export async function start(options: StartOptions): Promise<void> {
  const begun = performance.now();
  const settings = readSettings(options);
  const home = openHome(settings.homeFolder);
  const lock = holdServiceLock(home);
  const log = createLog({ name: 'supervisor', file: join(home.logs, 'supervisor.log') });
  const progress = createProgress(process.stderr);
  const abort = new AbortController();
  const certificates = openCertificates(home, settings);
  const { host, port: wanted, domains } = settings;
  const service = new Service({ home, host, port: wanted, log, domains, ...(certificates ? { certificates } : {}) });
  let asked = 0;
  const onSignal = (): void => {
    if (++asked === 1) abort.abort(new Error('interrupted'));
    else service.force();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);

  let panel: Panel | undefined;
  try {
    await setUp(home, log, progress, abort.signal, { ownCertificate: settings.tls === 'own' });
    progress.step('starting the node and control');
    const port = await service.start(abort.signal);
    const apiKey = localKey(home);
    const env = clientEnvironment(settings, port, apiKey, certificates);
    const names = 'E2B_DOMAIN' in env ? await namesNotices(domains.map(withoutPort)) : [];
    if ('E2B_DOMAIN' in env) leadHere(settings, certificates?.authority);
    const node = connectNodeApi(home.nodeSocket);
    const readyMs = Math.round(performance.now() - begun);
    progress.done(`serving on ${apiUrl(env)}`);
    let proof: Proof | undefined;
    if (options.proof || options.once) {
      progress.step('filling the pool');
      await untilHot(node, abort.signal);
      progress.done();
      progress.step('proving it with the official SDK');
      const jails = (await node.status()).backends.some((one) => one.isolation === 'jail');
      proof = await prove(env, { jails, signal: abort.signal });
      if (proof.ok) progress.done();
    }
    const status = await node.status();
    await node.close();
    progress.stop();
    panel = {
      ok: proof?.ok ?? true,
      backend: status.backends[0]?.backend ?? 'none',
      accelerator: status.backends[0]?.accelerator ?? 'none',
      backends: status.backends,
      ready_ms: readyMs,
      create_ms: proof?.create_ms ?? null,
      first_exec_ms: proof?.first_exec_ms ?? null,
      first_run_code_ms: proof?.first_run_code_ms ?? null,
      receipt: proof?.receipt ?? {},
      proof: proof?.lines ?? [],
      notices: [...status.notices, ...names],
      env,
      leaks: null,
      ...(proof?.error ? { reason: proof.error } : {}),
    };
    if (!options.json) process.stdout.write(`${draw(panel)}\n`);
    else if (!options.once) process.stdout.write(`${JSON.stringify(panel)}\n`);
    if (!options.once && !abort.signal.aborted) {
      if (!options.json)
        process.stdout.write(`${styleText('dim', 'Serving. Ctrl-C ends it and leaves nothing behind.')}\n`);
      await new Promise<void>((resolve) => abort.signal.addEventListener('abort', () => resolve(), { once: true }));
    }
  } catch (error) {
    progress.stop();
    if (!abort.signal.aborted) {
      await service.stop();
      lock.release();
      if (options.json) process.stdout.write(`${JSON.stringify({ ok: false, reason: (error as Error).message })}\n`);
      fail(error);
    }
  }

  if (!options.json) process.stderr.write('stopping\n');
  await service.stop();
  const leaks = await leaksOfHome(home, log);
  const leaked = leaks.details.length > 0;
  if (options.json && options.once && panel) {
    process.stdout.write(`${JSON.stringify({ ...panel, ok: panel.ok && !leaked, leaks })}\n`);
  } else if (leaked) {
    process.stderr.write(`left behind:\n${leaks.details.map((line) => `  ${line}`).join('\n')}\n`);
  }
  lock.release();
  const interrupted = options.once === true && abort.signal.aborted;
  process.exit(panel?.ok === false || leaked || interrupted ? 1 : 0);
}

/** Until every template's tier is at its resting size; a host that cannot hold it is not waited for. */
async function untilHot(node: ReturnType<typeof connectNodeApi>, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    signal.throwIfAborted();
    const { hot, hotTarget } = await node.status();
    if (hot >= hotTarget || Date.now() > deadline) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** What keeps clients from finding the sandboxes by name. */
async function namesNotices(hosts: readonly string[]): Promise<string[]> {
  const notices = await Promise.all(
    hosts.map(async (host) => {
      const { here, detail } = await whereNamesLead(host);
      return here ? [] : [`${detail}: programs of this host cannot find sandboxes by name`];
    }),
  );
  return notices.flat();
}

const describe = ({ isolation, backend, accelerator }: BackendStatus): string =>
  `${isolation}s by ${backend}, ${accelerator}`;

function draw(panel: Panel): string {
  const width = Math.max(...panel.proof.map((line) => line.what.length), 10);
  const lines = [
    '',
    `${styleText('bold', 'Coppice')}  ${panel.backends.map(describe).join('; ')}${accounts() ? '' : '; rootless'}`,
    ...panel.notices.map((notice) => styleText('yellow', `  ${notice}`)),
    '',
    ...panel.proof.map(
      (line) =>
        `  ${styleText('green', '✔')} ${line.what.padEnd(width)}  ${seconds(line.ms).padStart(8)}  ${line.outcome}`,
    ),
  ];
  if (panel.reason) lines.push(`  ${styleText('red', '✘')} ${panel.reason}`);
  const stages = Object.entries(panel.receipt);
  if (stages.length > 0) {
    lines.push('', `  receipt of the create: ${stages.map(([name, ms]) => `${name} ${ms} ms`).join(', ')}`);
  }
  lines.push(
    '',
    '  Point any E2B SDK here:',
    '',
    ...Object.entries(panel.env).map(([name, value]) => `    export ${name}=${value}`),
    '',
    ...domainAdvice(panel.env),
  );
  return lines.join('\n');
}

/** What clients need besides the variables. */
function domainAdvice(env: ClientEnvironment): string[] {
  if (!('E2B_DOMAIN' in env)) return [];
  const host = withoutPort(env.E2B_DOMAIN);
  const trust = env.NODE_EXTRA_CA_CERTS
    ? [
        '  Node trusts what NODE_EXTRA_CA_CERTS names, Python and curl what SSL_CERT_FILE does; other machines need copies.',
      ]
    : [];
  return [...trust, `  DNS must lead *.${host} here. For this host alone: ${oneHostHint(host)}.`, ''];
}
