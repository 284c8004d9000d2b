/** The agent's way of giving a machine its address, on an interface of a network namespace of its own. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { loadLibc } from '../../guest/agent/libc.ts';
import { createNetwork } from '../../guest/agent/network.ts';

if (process.argv[2] === '--inside') {
  const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
  const state = () => ({
    addresses: (JSON.parse(ip('-j', '-4', 'addr', 'show', 'dev', 'eth0')) as { addr_info: { local: string }[] }[])
      .flatMap((link) => link.addr_info ?? [])
      .map((info) => info.local),
    routes: (JSON.parse(ip('-j', '-4', 'route')) as { dst: string; gateway?: string }[]).map(
      ({ dst, gateway }) => `${dst} ${gateway ?? '-'}`,
    ),
    up: ip('-o', 'link', 'show', 'dev', 'eth0').includes(',UP'),
  });
  const at = (address: string, gateway = '169.254.1.1') => ({ address, prefix: 32, gateway });
  const routes = ['default 169.254.1.1', '169.254.1.1 -'];
  ip('link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth1');
  ip('link', 'set', 'eth1', 'up');
  const libc = loadLibc();
  const network = createNetwork(() => libc, 'eth0');

  network.set(at('192.0.2.2'));
  assert.deepEqual(state(), { addresses: ['192.0.2.2'], routes, up: true });

  const before = ip('-o', 'link', 'show', 'dev', 'eth0');
  for (let last = 3; last < 8; last++) network.set(at(`192.0.2.${last}`));
  assert.deepEqual(state(), { addresses: ['192.0.2.7'], routes, up: true }, 'swapped, and the routes stay');
  assert.equal(ip('-o', 'link', 'show', 'dev', 'eth0'), before);

  ip('addr', 'flush', 'dev', 'eth0');
  network.set(at('192.0.2.9'));
  assert.deepEqual(state(), { addresses: ['192.0.2.9'], routes, up: true }, 'made anew when somebody has changed it');

  network.set(at('192.0.2.10', '169.254.1.9'));
  assert.deepEqual(state().routes, ['default 169.254.1.9', '169.254.1.9 -'], 'another gateway');

  assert.throws(() => network.set(at('192.0.2.256')), /not an IPv4 address/);
  assert.throws(() => network.set(at('192.0.2')), /not an IPv4 address/);
  assert.deepEqual(state().addresses, ['192.0.2.10'], 'a wrong wish changes nothing');

  network.set(null);
  assert.deepEqual(state(), { addresses: [], routes: [], up: false });
  network.set(at('192.0.2.11'));
  assert.deepEqual(state(), { addresses: ['192.0.2.11'], routes, up: true });
} else {
  test('an address replaces another without touching the interface or its routes', () => {
    const program = ['--disable-warning=ExperimentalWarning', import.meta.filename, '--inside'];
    // `sysfs` of the new namespace names its interfaces.
    const script = 'mount -t sysfs sysfs /sys && exec "$@"';
    execFileSync('unshare', ['--net', '--mount', 'sh', '-c', script, 'sh', process.execPath, ...program], {
      stdio: 'pipe',
      timeout: 20_000,
    });
  });
}
