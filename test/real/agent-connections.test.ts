/** The agent's way of ending connections, in a network namespace of its own, with the other ends in a second one. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cutConnections } from '../../guest/agent/connections.ts';
import { loadLibc } from '../../guest/agent/libc.ts';
import { createNetwork } from '../../guest/agent/network.ts';

const WORLD = '198.51.100.1';
const at = (address: string) => ({ address, prefix: 32, gateway: WORLD });

/** Rejects when nothing happens: a connection that hangs is what must not be. */
async function endOf(socket: net.Socket): Promise<string> {
  const gone = new Promise<string>((resolve) => {
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.on('close', () => resolve('closed'));
  });
  const late = sleep(3_000, 'hangs', { ref: false });
  return Promise.race([gone, late]);
}

async function connected(options: net.NetConnectOpts): Promise<net.Socket> {
  const socket = net.connect(options);
  await once(socket, 'connect');
  return socket;
}

// A test that dies takes these with it.
process.on('disconnect', () => process.exit(1));

if (process.argv[2] === '--inside') {
  const libc = loadLibc();
  const world = process.env.WORLD_PID!;
  const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
  const inWorld = (...args: string[]): string =>
    execFileSync('nsenter', ['--net', '--target', world, ...args], { encoding: 'utf8' });
  ip('link', 'set', 'lo', 'up');
  ip('link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'w0', 'netns', world);
  inWorld('ip', 'link', 'set', 'lo', 'up');
  inWorld('ip', 'addr', 'add', `${WORLD}/32`, 'dev', 'w0');
  inWorld('ip', 'link', 'set', 'w0', 'up');
  inWorld('ip', 'route', 'add', '192.0.2.0/24', 'dev', 'w0');
  const network = createNetwork(() => libc, 'eth0');
  network.set(at('192.0.2.2'));

  const listener = net.createServer((socket) => socket.on('error', () => {}).resume());
  listener.listen(0, '::');
  await once(listener, 'listening');
  const { port } = listener.address() as net.AddressInfo;
  const kept = [
    await connected({ host: '127.0.0.1', port }),
    await connected({ host: '127.3.2.1', port }),
    await connected({ host: '::1', port }),
  ];
  const outward = await connected({ host: WORLD, port: 7 });
  const another = await connected({ host: WORLD, port: 7 });
  // Accepted by a listener of both families: an IPv6 socket whose ends are IPv4.
  const accepted = once(listener, 'connection');
  process.send!({ dial: { host: '192.0.2.2', port } });
  const [mapped] = (await accepted) as [net.Socket];
  assert.match(mapped.remoteAddress!, /^::ffff:198\.51\.100\.1$/);
  const ends = [outward, another, mapped].map(endOf);

  // Where the agent has not that power, as in a jail, nothing happens but that it is told.
  const program = [process.execPath, '--disable-warning=ExperimentalWarning', import.meta.filename, '--powerless'];
  const told = execFileSync('setpriv', ['--bounding-set=-net_admin', ...program], { encoding: 'utf8' });
  assert.deepEqual(JSON.parse(told), { cut: 0, left: 3 });

  network.set(at('192.0.2.3'));
  assert.deepEqual(cutConnections(libc), { cut: 3, left: 0 });
  assert.deepEqual(await Promise.all(ends), ['ECONNABORTED', 'ECONNABORTED', 'ECONNABORTED']);

  for (const socket of kept) {
    assert.ok(!socket.destroyed);
    await new Promise<void>((resolve, reject) => socket.write('x', (error) => (error ? reject(error) : resolve())));
  }
  (await connected({ host: '127.0.0.1', port })).destroy();
  // The other ends have heard nothing: what left with the old address would have reached another machine's connections.
  const alive = new Promise((resolve) => process.once('message', resolve));
  process.send!({ count: true });
  assert.deepEqual(await alive, { open: 3 });

  const anew = await connected({ host: WORLD, port: 7 });
  assert.equal(anew.localAddress, '192.0.2.3');
  const end = endOf(anew);
  assert.deepEqual(cutConnections(libc), { cut: 1, left: 0 });
  assert.equal(await end, 'ECONNABORTED');
  assert.deepEqual(cutConnections(libc), { cut: 0, left: 0 });

  const many = await Promise.all(Array.from({ length: 300 }, () => connected({ host: WORLD, port: 7 })));
  const manyEnds = many.map(endOf);
  const started = performance.now();
  assert.deepEqual(cutConnections(libc), { cut: 300, left: 0 });
  console.log(`300 connections in ${(performance.now() - started).toFixed(1)} ms`);
  assert.deepEqual(new Set(await Promise.all(manyEnds)), new Set(['ECONNABORTED']));
  process.exit(0);
} else if (process.argv[2] === '--powerless') {
  console.log(JSON.stringify(cutConnections(loadLibc())));
} else if (process.argv[2] === '--world') {
  // Accepts, and keeps what it has; dials when it is told to.
  const open = new Set<net.Socket>();
  const keep = (socket: net.Socket): void => {
    open.add(socket);
    socket.on('error', () => {}).on('close', () => open.delete(socket));
  };
  net.createServer(keep).listen(7, '0.0.0.0', () => process.send!({ ready: true }));
  process.on('message', (message: { dial?: net.TcpNetConnectOpts; count?: true }) => {
    if (message.dial) keep(net.connect(message.dial));
    if (message.count) process.send!({ open: open.size });
  });
} else {
  const { fork } = await import('node:child_process');
  const inNewNetwork = (role: string, env: Record<string, string> = {}) => {
    const flags = ['--disable-warning=ExperimentalWarning'];
    const setup = 'mount -t sysfs sysfs /sys && exec "$@"';
    return fork(import.meta.filename, [role], {
      execPath: 'unshare',
      execArgv: ['--net', '--mount', 'sh', '-c', setup, 'sh', process.execPath, ...flags],
      env: { ...process.env, NODE_TEST_CONTEXT: '', ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
  };

  test('connections that lead out end at once, on the loopback they stay', { timeout: 60_000 }, async (t) => {
    const world = inNewNetwork('--world');
    t.after(() => world.kill('SIGKILL'));
    await once(world, 'message');
    const inside = inNewNetwork('--inside', { WORLD_PID: String(world.pid) });
    t.after(() => inside.kill('SIGKILL'));
    inside.on('message', (message) => world.send(message));
    world.on('message', (message) => inside.send(message as object));
    let output = '';
    for (const stream of [inside.stdout!, inside.stderr!])
      stream.on('data', (chunk) => {
        output += chunk;
      });
    const [code] = await once(inside, 'exit');
    assert.equal(code, 0, output);
    t.diagnostic(output.trim());
  });
}
