/**
 * The agent's entry in a sandbox. Without arguments it serves the virtio port named `coppice.channel`; `--socket PATH`
 * listens on a unix socket, `--listening FD` on one that the host has bound (a jail's), `--stdio` speaks on its standard
 * streams. Started with UV_THREADPOOL_SIZE=8 where it serves the port: one thread always waits for the host, one for inotify.
 */
import fs from 'node:fs';
import path from 'node:path';
import { runAgent } from './agent.ts';
import type { Context } from './context.ts';
import { realPowers } from './powers.ts';
import { portTransport, socketTransport, stdioTransport, type Transport, type TransportEvents } from './transport.ts';
import { readUsers } from './users.ts';

const PORT_NAME = 'coppice.channel';
const PORTS = '/sys/class/virtio-ports';

const powers = realPowers();
const context: Context = {
  powers,
  users: readUsers('/etc'),
  folders: { etc: '/etc', run: '/run', dbus: '/var/lib/dbus' },
  resetOOMScore: neverKilledFirst(),
  // The drive holds this file as app/guest/agent/main.js, and bin/ beside app/.
  busybox: path.resolve(import.meta.dirname, '../../../bin/busybox'),
  env: {},
  generation: undefined,
  sandboxID: undefined,
  hostname: undefined,
};
process.umask(0o022);
// The sandbox cannot be reached without its agent: a fault in one operation is told on the console, and the rest goes on.
process.on('uncaughtException', (error) => console.error(error));
process.on('SIGHUP', () => {});

const args = process.argv.slice(2);
const inJail = args[0] === '--listening';
// What its host's process refuses itself is not refused to what is started here.
if (inJail) powers.allowHugePages();
// It was started on demand, and is started again when it is needed again. It ends by a signal, since an exit waits for every
// thread of the pool, whatever that one waits for.
runAgent(context, transportOf(args), inJail ? () => process.kill(process.pid, 'SIGKILL') : undefined);

function transportOf(args: readonly string[]): (events: TransportEvents) => Transport {
  const [mode, value] = args;
  if (mode === '--stdio') return stdioTransport;
  if (mode === '--socket' && value) return (events) => socketTransport({ path: value }, events);
  if (mode === '--listening' && value) return (events) => socketTransport({ fd: Number(value) }, events);
  if (mode !== undefined) {
    console.error('usage: main.ts [--socket PATH | --listening FD | --stdio]');
    process.exit(2);
  }
  const fd = fs.openSync(path.join('/dev', findPort()), fs.constants.O_RDWR);
  return (events) => portTransport(fd, powers.writable, events);
}

function findPort(): string {
  for (const port of fs.readdirSync(PORTS))
    if (fs.readFileSync(path.join(PORTS, port, 'name'), 'utf8').trim() === PORT_NAME) return port;
  throw new Error(`no virtio port is named ${PORT_NAME}`);
}

/** True when the agent has been made the last to be killed for want of memory, and children must be set back. */
function neverKilledFirst(): boolean {
  try {
    fs.writeFileSync('/proc/self/oom_score_adj', '-1000');
    return true;
  } catch {
    return false;
  }
}
