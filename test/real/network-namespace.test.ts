/** A sandbox's own namespace: what is in it, what its root may do there, and what it may not. */
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import type { Attachment, NetworkFabric } from '../../src/network/fabric.ts';
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { networkTest, type Puppet, type SeenPacket, WORLD_ADDRESS } from '../helpers/netns.ts';

networkTest(import.meta.filename, (net) => {
  const fabric: NetworkFabric = createNftablesFabric({
    instance: net.instance,
    stateFolder: net.stateFolder,
    log: silentLog,
  });
  let world: Puppet;
  let at: Attachment;
  const within = (...command: string[]) => net.onHost('nsenter', `--net=${at.namespace}`, ...command);
  /** As root of a user namespace of its own, who is nobody outside: all capabilities there, and none over the network. */
  const asRoot = (...command: string[]) =>
    within('setpriv', '--reuid=77', '--regid=77', '--clear-groups', 'unshare', '--user', '--map-root-user', ...command);
  const python = (code: string, ...args: string[]) => asRoot('python3', '-c', code, ...args).trim();
  const mtuOf = (output: string) => Number(/ mtu (\d+) /.exec(output)?.[1]);

  before(async () => {
    await fabric.start();
    world = await net.world();
    at = await fabric.attach('one', { kind: 'namespace', uid: 77, policy: { allowInternet: true } });
  });

  after(async () => {
    await world?.end();
    await fabric.stop();
  });

  test('it holds loopback and one interface, addressed and routed, and is another than the fabric', () => {
    assert.equal(at.kind, 'namespace');
    assert.notEqual(at.namespace, net.fabricNamespace);
    assert.match(at.namespace, new RegExp(`^/run/netns/coppice-${net.instance}-\\d+$`));
    const links = JSON.parse(within('ip', '-j', '-4', 'addr', 'show')) as {
      ifname: string;
      addr_info: { local: string; prefixlen: number }[];
    }[];
    assert.deepEqual(
      links.map(({ ifname, addr_info }) => [ifname, ...addr_info.map((a) => `${a.local}/${a.prefixlen}`)]),
      [
        ['lo', '127.0.0.1/8'],
        ['eth0', `${at.address}/${at.prefix}`],
      ],
    );
    assert.match(
      within('ip', 'route', 'get', WORLD_ADDRESS),
      new RegExp(`via ${at.gateway} dev eth0 src ${at.address}`),
    );
    assert.equal(within('nft', 'list', 'ruleset'), '');
  });

  test('attached with a policy, it is let out at once', async () => {
    assert.equal((await fabric.census()).rules.length, 4);
    assert.equal(python(ECHO, WORLD_ADDRESS, '5'), '5');
  });

  test('IPv6 is there on loopback, and nowhere else', () => {
    const addresses = within('ip', '-j', '-6', 'addr', 'show');
    const links = JSON.parse(addresses) as { ifname?: string; addr_info?: { local: string }[] }[];
    const found = links.flatMap(({ ifname, addr_info = [] }) => addr_info.map(({ local }) => `${ifname} ${local}`));
    assert.deepEqual(found, ['lo ::1']);
    assert.equal(python(LOOPBACK, '::1'), 'heard');
    assert.equal(python(LOOPBACK, '127.0.0.1'), 'heard');
  });

  test('its root may ping and listen on every port', () => {
    assert.equal(python(PING, '8.8.8.8'), 'reply');
    assert.equal(python('import socket; s = socket.socket(); s.bind(("", 22)); s.listen(); print("bound")'), 'bound');
  });

  test('its root changes nothing of the network, and sends no packet of its own making', () => {
    for (const line of [
      'link set dev eth0 down',
      'link set dev eth0 address 02:00:00:00:00:09',
      'link add name x0 type veth peer name x1',
      'link set dev eth0 netns 1',
      'addr add 10.0.0.9/32 dev eth0',
      `addr del ${at.address}/32 dev eth0`,
      'route add 8.8.8.8 dev eth0',
      'neigh replace 169.254.1.1 lladdr 02:00:00:00:00:09 dev eth0',
    ])
      assert.throws(() => asRoot('ip', ...line.split(' ')), /Operation not permitted/, line);
    for (const setting of ['ipv4/ip_forward', 'ipv4/ip_nonlocal_bind', 'ipv6/conf/eth0/disable_ipv6'])
      assert.throws(() => asRoot('sh', '-c', `echo 0 >/proc/sys/net/${setting}`), /Permission denied/, setting);
    for (const kind of ['AF_PACKET, socket.SOCK_RAW', 'AF_PACKET, socket.SOCK_DGRAM', 'AF_INET, socket.SOCK_RAW, 255'])
      assert.throws(() => python(`import socket; socket.socket(socket.${kind})`), /Operation not permitted/, kind);
    assert.throws(() => asRoot('nft', 'list', 'ruleset'), /Operation not permitted/);
    assert.throws(() => asRoot('nsenter', `--net=${net.fabricNamespace}`, 'true'), /Operation not permitted/);
  });

  test("another's address as source, bound without privilege, does not leave", async () => {
    await world.ask({ op: 'forget' });
    python(FREEBIND, '203.0.113.77', WORLD_ADDRESS);
    assert.equal(python(ECHO, WORLD_ADDRESS, '1'), '1', 'behind it on the same wire');
    const { packets } = (await world.ask({ op: 'seen' })) as { packets: SeenPacket[] };
    assert.deepEqual(
      packets.filter(({ dport }) => dport === 666),
      [],
    );
  });

  test('what is sent in bulk arrives whole, both ways', () => {
    assert.equal(python(ECHO, WORLD_ADDRESS, `${16 << 20}`), `${16 << 20}`);
  });

  test('its MTU follows that of the way out', async () => {
    const both = () => [
      mtuOf(within('ip', 'link', 'show', 'dev', 'eth0')),
      mtuOf(net.onHost('nsenter', `--net=${net.fabricNamespace}`, 'ip', 'link', 'show', 'dev', at.port)),
    ];
    assert.deepEqual(both(), [1500, 1500]);
    net.onHost('ip', 'link', 'set', 'dev', 'h0', 'mtu', '1400');
    try {
      await fabric.start();
      assert.deepEqual(both(), [1400, 1400]);
      assert.equal(python(ECHO, WORLD_ADDRESS, `${1 << 20}`), `${1 << 20}`);
    } finally {
      net.onHost('ip', 'link', 'set', 'dev', 'h0', 'mtu', '1500');
    }
    await fabric.start();
    assert.deepEqual(both(), [1500, 1500]);
  });

  test('attach again is idempotent, and makes its policy hold', async () => {
    assert.deepEqual(await fabric.attach('one', { kind: 'namespace', policy: { allowInternet: false } }), at);
    assert.throws(() => python(ECHO, WORLD_ADDRESS, '1'), /Connection refused/);
    assert.deepEqual(await fabric.attach('one', { kind: 'namespace', policy: { allowInternet: true } }), at);
    assert.equal(python(ECHO, WORLD_ADDRESS, '1'), '1');
    await assert.rejects(fabric.attach('one', { kind: 'tap' }), { code: 'conflict' });
  });

  test('a process that stays behind when it ends has no network left', async () => {
    const two = await fabric.attach('two', { kind: 'namespace', policy: { allowInternet: true } });
    const puppet = await net.guest(two);
    const dial = { op: 'connect', name: 'c', host: WORLD_ADDRESS, port: 80, timeout: 0.7 };
    assert.deepEqual(await puppet.ask(dial), { ok: true });
    await fabric.detach('two');
    assert.deepEqual((await fabric.census()).ports, [at.port, at.namespace]);
    assert.deepEqual(await puppet.ask({ ...dial, name: 'd' }), { error: 'ENETUNREACH' });
    const links = (await puppet.ask({ op: 'run', command: ['ip', '-br', 'link'] })).stdout as string;
    assert.match(links, /^lo\b.*\n$/);
    await puppet.end();
  });
});

/** Sends so many bytes to port 80, which echoes them; prints how many came back as they were. */
const ECHO = `
import hashlib, os, socket, sys, threading
size = int(sys.argv[2]); data = os.urandom(size)
s = socket.create_connection((sys.argv[1], 80), 10)
threading.Thread(target=s.sendall, args=(data,), daemon=True).start()
back = bytearray()
while len(back) < size:
    part = s.recv(1 << 20)
    if not part: break
    back += part
print(len(back) if bytes(back) == data else "other")
`;

const LOOPBACK = `
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.socket(family); listener.bind((sys.argv[1], 0)); listener.listen()
caller = socket.socket(family); caller.connect((sys.argv[1], listener.getsockname()[1])); caller.sendall(b"heard")
print(listener.accept()[0].recv(9).decode())
`;

/** As ping does without privilege. */
const PING = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); s.settimeout(5)
s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), (sys.argv[1], 0))
print("reply" if s.recv(99)[0] == 0 else "other")
`;

/** Option 15 is IP_FREEBIND: any address may be bound, by anybody. Whether the kernel sends from it is not the question. */
const FREEBIND = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_IP, 15, 1); s.bind((sys.argv[1], 5))
try: s.sendto(b"x", (sys.argv[2], 666))
except OSError as error: print(error)
`;
