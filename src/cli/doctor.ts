/** `coppice doctor`: what this host offers, measured where it can be, each finding with its fix. */
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { createServer } from 'node:net';
import { freemem, totalmem } from 'node:os';
import { styleText } from 'node:util';
import type { IsolationBackend } from '../isolation/backend.ts';
import { openCgroups } from '../isolation/cgroup.ts';
import { probeNftables } from '../network/nftables/probe.ts';
import { openHome } from '../store/home.ts';
import { createLog } from '../telemetry/log.ts';
import { installCommand, missingPackages } from '../templates/packages.ts';
import { domainFindings } from './domain-findings.ts';
import type { Finding } from './finding.ts';
import { openHost } from './host.ts';
import { serviceHolder } from './lock.ts';
import { type OutputOptions, print } from './report.ts';
import { readSettings } from './settings.ts';

/** GiB that the two built-in templates and their checkpoints take, with room for sandboxes to write. */
const DISK_WANTED_GIB = 8;
const MEMORY_WANTED_MIB = 2_048;

export async function doctor(options: OutputOptions): Promise<void> {
  const settings = readSettings();
  const home = openHome(settings.homeFolder);
  const findings: Finding[] = [];
  const add = (check: string, state: Finding['state'], detail: string, fix?: string): void => {
    findings.push({ check, state, detail, ...(fix && state !== 'ok' ? { fix } : {}) });
  };

  const major = Number(process.versions.node.split('.')[0]);
  add(
    'node',
    major >= 24 ? 'ok' : 'bad',
    `Node ${process.versions.node}`,
    'npm ci brings Node 24 on Linux; elsewhere install it',
  );
  const root = process.getuid?.() === 0;
  add(
    'user',
    root ? 'ok' : 'off',
    root ? 'root' : 'not root: microVMs run, guests have no network',
    'run as root for guest networks',
  );

  const missing = await missingPackages({ ownCertificate: settings.tls === 'own' });
  add(
    'packages',
    missing.length === 0 ? 'ok' : 'bad',
    missing.length === 0 ? 'all there' : `missing: ${missing.join(', ')}`,
    installCommand(missing),
  );

  if (missing.length === 0) {
    const host = openHost(home, createLog({ name: 'doctor', level: 'silent' }));
    for (const backend of host.backends.all) add(...(await findingOf(backend)));
  }

  const network = await probeNftables();
  for (const check of network.checks) {
    if (check.name === 'root') continue;
    add(check.name, check.ok ? 'ok' : 'off', check.detail, check.fix);
  }
  for (const notice of network.notices) add('network', 'off', notice);

  const cgroups = await openCgroups(home.machines);
  const limits = cgroups.controllers.length === 0 ? 'none' : cgroups.controllers.join(', ');
  add('cgroups', cgroups.notices.length === 0 ? 'ok' : 'off', `limits on ${limits}`, cgroups.notices.join('; '));

  const disk = statfsSync(home.folder);
  const freeGiB = (disk.bavail * disk.bsize) / 2 ** 30;
  add(
    'disk',
    freeGiB >= DISK_WANTED_GIB ? 'ok' : 'bad',
    `${freeGiB.toFixed(1)} GiB free in ${home.folder}`,
    `free ${DISK_WANTED_GIB} GiB or set COPPICE_HOME to another disk`,
  );
  const available = memAvailableMiB();
  add(
    'memory',
    available >= MEMORY_WANTED_MIB ? 'ok' : 'bad',
    `${available} MiB available of ${Math.round(totalmem() / 2 ** 20)}`,
    `a template and a small pool want ${MEMORY_WANTED_MIB} MiB`,
  );

  const holder = serviceHolder(home);
  if (holder) add('port', 'ok', `Coppice serves already (pid ${holder.pid})`);
  else {
    const taken = await portTaken(settings.port, settings.host);
    add(
      'port',
      taken ? 'bad' : 'ok',
      `${settings.host}:${settings.port} is ${taken ? 'taken' : 'free'}`,
      'set COPPICE_PORT to a free port',
    );
  }

  findings.push(...(await domainFindings(home, settings)));

  print(options, findings, () => findings.map(line).join('\n'));
  if (findings.some((finding) => finding.state === 'bad')) process.exitCode = 1;
}

/** What a backend says of this host. The default's absence is bad; another's is less than whole. */
async function findingOf(backend: IsolationBackend): Promise<[string, Finding['state'], string, string]> {
  const check = backend.kind === 'microvm' ? 'accelerator' : 'jails';
  const unusable = backend.kind === 'microvm' ? 'bad' : 'off';
  try {
    const probe = await backend.probe();
    const native = probe.accelerator !== 'tcg';
    const boot =
      probe.referenceBootSeconds === undefined ? '' : `, reference boot ${probe.referenceBootSeconds.toFixed(1)} s`;
    return [
      check,
      !probe.usable ? unusable : native ? 'ok' : 'off',
      `${probe.accelerator}, ${probe.version}${boot}${probe.notices.map((notice) => `; ${notice}`).join('')}`,
      backend.kind === 'jail'
        ? 'see the message'
        : existsSync('/dev/kvm')
          ? 'KVM is here but did not pass the self-test (nested or paravirtual hosts often fail it); use a host with real KVM for native speed'
          : 'enable virtualization in the firmware and load kvm_intel or kvm_amd',
    ];
  } catch (error) {
    return [check, unusable, (error as Error).message, 'see the message'];
  }
}

const MARKS = { ok: styleText('green', '✔'), off: styleText('yellow', '–'), bad: styleText('red', '✘') } as const;

function line(finding: Finding): string {
  const fix = finding.fix ? `\n    ${styleText('dim', `fix: ${finding.fix}`)}` : '';
  return `${MARKS[finding.state]} ${finding.check.padEnd(20)} ${finding.detail}${fix}`;
}

function memAvailableMiB(): number {
  try {
    return Math.floor(Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))![1]) / 1024);
  } catch {
    return Math.floor(freemem() / 2 ** 20);
  }
}

function portTaken(port: number, host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(true));
    server.listen(port, host, () => server.close(() => resolve(false)));
  });
}
