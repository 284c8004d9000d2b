/** Where everything of one Coppice lives. `COPPICE_HOME`, else /var/lib/coppice as root, else the XDG data folder. */
import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { CoppiceError } from '../contract/errors.ts';

export interface Home {
  readonly folder: string;
  /** Eight hex digits that tell this home from others on the host: names of namespaces, tables and cgroups. */
  readonly instance: string;
  readonly controlDatabase: string;
  readonly nodeDatabase: string;
  /** What happened to sandboxes, for their owners. */
  readonly journalDatabase: string;
  /** 32 random bytes, mode 0600: sandbox access tokens are derived from it and stored nowhere. */
  readonly seedFile: string;
  readonly images: string;
  readonly templates: string;
  /** One folder a build of a template that a team has made, named by the node's rows. */
  readonly builds: string;
  /** What steps of builds gave, for the next one that begins alike. */
  readonly steps: string;
  /** Archives that builds copy from. */
  readonly uploads: string;
  readonly machines: string;
  /** One folder a snapshot of a sandbox, named by the node's rows. */
  readonly snapshots: string;
  /** One folder a paused sandbox that no machine holds. */
  readonly paused: string;
  /** Images of volumes. */
  readonly volumes: string;
  /** Disk of the jails, and where what they share is mounted. */
  readonly jails: string;
  readonly network: string;
  /** Certificates of domain mode; clients read the CA's, and only the owner the keys. */
  readonly tls: string;
  readonly probeFile: string;
  readonly logs: string;
  readonly run: string;
  readonly nodeSocket: string;
  readonly trafficSocket: string;
  /** Pid file and lock of the running service. */
  readonly lockFile: string;
}

/** Sockets of a machine are <home>/machines/<21 chars>/channel.sock, and a unix socket's path ends at 107 bytes. */
const LONGEST_HOME = 60;

export function defaultHomeFolder(env: NodeJS.ProcessEnv = process.env, uid: number = process.getuid?.() ?? 0): string {
  if (env.COPPICE_HOME) return resolve(env.COPPICE_HOME);
  if (uid === 0) return '/var/lib/coppice';
  return join(env.XDG_DATA_HOME ?? join(homedir(), '.local', 'share'), 'coppice');
}

/** Names the parts of a home and makes the folders. Throws host_unfit when the path is too long for unix sockets. */
export function openHome(folder: string = defaultHomeFolder()): Home {
  if (!isAbsolute(folder)) throw new CoppiceError('host_unfit', `COPPICE_HOME must be an absolute path, not ${folder}`);
  if (Buffer.byteLength(folder) > LONGEST_HOME) {
    throw new CoppiceError(
      'host_unfit',
      `COPPICE_HOME is longer than ${LONGEST_HOME} bytes: ${folder}; unix sockets need a shorter one`,
    );
  }
  const at = (...parts: string[]): string => join(folder, ...parts);
  const home: Home = {
    folder,
    instance: createHash('sha256').update(folder).digest('hex').slice(0, 8),
    controlDatabase: at('control', 'control.db'),
    nodeDatabase: at('node', 'node.db'),
    journalDatabase: at('node', 'journal.db'),
    seedFile: at('node', 'seed'),
    images: at('images'),
    templates: at('templates'),
    builds: at('builds'),
    steps: at('steps'),
    uploads: at('uploads'),
    machines: at('machines'),
    snapshots: at('snapshots'),
    paused: at('paused'),
    volumes: at('volumes'),
    jails: at('jails'),
    network: at('network'),
    tls: at('tls'),
    probeFile: at('node', 'probe.json'),
    logs: at('logs'),
    run: at('run'),
    nodeSocket: at('run', 'node.sock'),
    trafficSocket: at('run', 'traffic.sock'),
    lockFile: at('run', 'service.json'),
  };
  // 0711: the unprivileged VMMs must be able to walk to their own files, and list nothing.
  mkdirSync(folder, { recursive: true, mode: 0o711 });
  if (process.getuid?.() === 0) openTheWay(folder);
  for (const [name, mode] of [
    ['control', 0o700],
    ['node', 0o700],
    ['images', 0o755],
    ['templates', 0o755],
    ['builds', 0o755],
    ['steps', 0o700],
    ['uploads', 0o700],
    ['machines', 0o711],
    ['snapshots', 0o700],
    ['paused', 0o700],
    ['volumes', 0o700],
    ['jails', 0o711],
    ['network', 0o700],
    ['logs', 0o700],
    ['run', 0o711],
  ] as const) {
    mkdirSync(at(name), { recursive: true, mode });
  }
  return home;
}

/** The home itself is ours to open; what lies above it is not. */
function openTheWay(folder: string): void {
  const { mode } = statSync(folder);
  if ((mode & 0o011) !== 0o011) chmodSync(folder, (mode & 0o777) | 0o011);
  for (let above = dirname(folder); above !== dirname(above); above = dirname(above)) {
    if ((statSync(above).mode & 0o001) === 0) {
      throw new CoppiceError(
        'host_unfit',
        `COPPICE_HOME is ${folder}, but only its owner may enter ${above}, and most of Coppice holds no root; choose another`,
      );
    }
  }
}
