/** Killing a fabric at any point loses nothing and leaks nothing: the next one finds, repairs, and can remove it all. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import test, { afterEach } from 'node:test';
import type { Attachment } from '../../src/network/fabric.ts';
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { HOST_ADDRESS, networkTest, type SeenPacket, until, WORLD_ADDRESS } from '../helpers/netns.ts';

networkTest(import.meta.filename, (net) => {
  const make = (instance = net.instance) =>
    createNftablesFabric({ instance, stateFolder: `${net.stateFolder}/${instance}`, log: silentLog });
  const namespace = `coppice-${net.instance}`;
  const inside = (...command: string[]) => net.onHost('nsenter', `--net=/run/netns/${namespace}`, ...command);
  const forwarding = () => net.onHost('cat', '/proc/sys/net/ipv4/ip_forward').trim();
  const hostState = () => ({
    tables: net.onHost('nft', 'list', 'tables'),
    links: net.onHost('ip', '-br', 'link').replace(/^h0\S* .*\n|^lo .*\n/gm, ''),
    routes: net.onHost('ip', 'route').trim(),
    forwarding: forwarding(),
    namespace: existsSync(`/run/netns/${namespace}`),
  });
  const untouched = hostState();
  const journalFile = `${net.stateFolder}/${net.instance}/network.json`;
  const nothing = { taps: [], addresses: [], rules: [] };

  afterEach(async () => {
    await make().stop();
  });

  test('stop leaves the host as it was, and is idempotent', async () => {
    const fabric = make();
    await fabric.start();
    assert.equal(forwarding(), '0', 'forwarding is not needed yet');
    for (const id of ['a', 'b']) await fabric.attach(id, { uid: 1234 });
    await fabric.setPolicy('a', { allowInternet: false });
    assert.equal(forwarding(), '0', 'forwarding is not needed yet');
    await fabric.setPolicy('a', { allowInternet: true });
    assert.equal(forwarding(), '1');
    assert.notDeepEqual(hostState(), untouched);
    await fabric.stop();
    assert.deepEqual(hostState(), untouched);
    assert.equal(existsSync(journalFile), false);
    await fabric.stop();
    assert.deepEqual(hostState(), untouched);
  });

  test('a fabric that was stopped can be started again', async () => {
    const fabric = make();
    for (let round = 0; round < 3; round++) {
      await fabric.start();
      await fabric.attach('a', {});
      await fabric.stop();
      assert.deepEqual(hostState(), untouched);
    }
  });

  test('the census counts a sandbox, and counts back to zero after detach', async () => {
    const fabric = make();
    await fabric.start();
    assert.deepEqual(await fabric.census(), nothing);
    const { tap, address } = await fabric.attach('a', {});
    await fabric.setPolicy('a', { allowInternet: true });
    const census = await fabric.census();
    assert.deepEqual([census.taps, census.addresses], [[tap], [address]]);
    assert.equal(census.rules.length, 4, census.rules.join());
    await fabric.detach('a');
    assert.deepEqual(await fabric.census(), nothing);
    await fabric.detach('a');
    assert.deepEqual(await fabric.attached(), []);
  });

  test('a tap belongs to the uid that was asked for', async () => {
    const fabric = make();
    await fabric.start();
    const { tap } = await fabric.attach('a', { uid: 4321 });
    assert.match(inside('ip', '-d', 'link', 'show', 'dev', tap), /tun type tap .*persist on user 4321 /);
  });

  test('after kill -9 the next process finds sandboxes, and can end them', async () => {
    const first = make();
    await first.start();
    const made = await Promise.all(['a', 'b', 'c'].map((id) => first.attach(id, { uid: 7 })));
    await first.setPolicy('b', { allowInternet: true });

    const second = make();
    const order = (list: readonly Attachment[]) => [...list].sort((x, y) => x.id.localeCompare(y.id));
    assert.deepEqual(order(await second.attached()), made);
    assert.deepEqual((await second.census()).taps.length, 3);
    await second.detach('b');
    assert.deepEqual(order(await second.attached()), [made[0], made[2]]);
    assert.equal((await second.census()).rules.length, 4);
    const again = await second.attach('a', { uid: 7 });
    assert.deepEqual(again, made[0], 'attach is idempotent across processes');
    const other = await second.attach('d', {});
    assert.equal(new Set([...made, other].map(({ address }) => address)).size, 4);
    assert.equal(new Set([...made, other].map(({ tap }) => tap)).size, 4);
  });

  test('intents that a crash left half done are undone or completed', async () => {
    const first = make();
    await first.start();
    for (const id of ['whole', 'attaching', 'detaching', 'unplugged']) await first.attach(id, {});
    await first.setPolicy('detaching', { allowInternet: true });
    const journal = JSON.parse(await readFile(journalFile, 'utf8')) as {
      leases: { id: string; state: string; tap: string }[];
    };
    for (const lease of journal.leases) if (lease.id.endsWith('aching')) lease.state = lease.id;
    await writeFile(journalFile, JSON.stringify(journal));
    inside('ip', 'link', 'del', journal.leases.find(({ id }) => id === 'unplugged')!.tap);
    inside('ip', 'tuntap', 'add', 'dev', 'cp999', 'mode', 'tap');

    const second = make();
    await second.start();
    assert.deepEqual(
      (await second.attached()).map(({ id }) => id),
      ['whole'],
    );
    const census = await second.census();
    assert.deepEqual([census.taps.length, census.addresses.length, census.rules.length], [1, 1, 2]);
  });

  test('a journal that cannot be read costs the sandboxes their network, and leaks nothing', async () => {
    const first = make();
    await first.start();
    await first.attach('a', {});
    await writeFile(journalFile, '{"version":1,"lea');
    const second = make();
    await second.start();
    assert.deepEqual(await second.attached(), []);
    assert.deepEqual(await second.census(), nothing);
  });

  test('start repairs what somebody took away', async () => {
    const first = make();
    await first.start();
    const { tap, address } = await first.attach('a', {});
    await first.setPolicy('a', { allowInternet: true });
    inside('nft', 'flush', 'ruleset');
    inside('ip', 'route', 'del', `${address}/32`);
    net.onHost('nft', 'delete', 'table', 'inet', `coppice_${net.instance}`);
    net.onHost('ip', 'link', 'del', `cpv-${net.instance}`);
    await first.start();
    const census = await first.census();
    assert.deepEqual([census.taps, census.addresses, census.rules.length], [[tap], [address], 4]);
    assert.match(inside('ip', 'route', 'get', WORLD_ADDRESS), /dev up0/);
    assert.match(net.onHost('nft', 'list', 'tables'), new RegExp(`coppice_${net.instance}`));
    await first.stop();
    assert.deepEqual(hostState(), untouched);
  });

  test('rules that somebody took away come back with the next change', async () => {
    const fabric = make();
    await fabric.start();
    await fabric.attach('a', {});
    inside('nft', 'flush', 'ruleset');
    await fabric.setPolicy('a', { allowInternet: true });
    assert.equal((await fabric.census()).rules.length, 4);
  });

  test('a namespace file left by an interrupted start is no obstacle', async () => {
    await writeFile(`/run/netns/${namespace}`, '');
    const fabric = make();
    await fabric.start();
    await fabric.attach('a', {});
    assert.equal((await fabric.census()).taps.length, 1);
  });

  test('many at once, in one breath', async () => {
    const fabric = make();
    await fabric.start();
    const ids = Array.from({ length: 60 }, (_, index) => `s${index}`);
    const made = await Promise.all(ids.map((id) => fabric.attach(id, {})));
    assert.equal(new Set(made.map(({ address }) => address)).size, 60);
    await Promise.all(ids.map((id, index) => fabric.setPolicy(id, { allowInternet: index % 2 === 0 })));
    assert.equal((await fabric.census()).rules.length, 60 * 2 + 30 * 2);
    await Promise.all([...ids.slice(0, 40).map((id) => fabric.detach(id)), fabric.attach('late', {}), fabric.start()]);
    assert.equal((await fabric.attached()).length, 21);
    await Promise.all([...ids.map((id) => fabric.detach(id)), fabric.detach('late')]);
    assert.deepEqual(await fabric.census(), nothing);
  });

  test('a stray device under the name of a tap to come is no obstacle', async () => {
    const fabric = make();
    await fabric.start();
    const journal = JSON.parse(await readFile(journalFile, 'utf8')) as { nextLease: number };
    inside('ip', 'link', 'add', `cp${journal.nextLease + 1}`, 'type', 'veth', 'peer', 'name', 'stray');
    await Promise.all(['a', 'b', 'c'].map((id) => fabric.attach(id, {})));
    assert.equal((await fabric.attached()).length, 3);
    assert.equal((await fabric.census()).rules.length, 6);
  });

  test('forwarding that was on before stays on, and nothing of the host is guarded', async () => {
    net.onHost('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1');
    const fabric = make();
    await fabric.start();
    await fabric.attach('a', {});
    await fabric.setPolicy('a', { allowInternet: true });
    assert.doesNotMatch(net.onHost('nft', 'list', 'ruleset'), /forwarding_was_off/);
    await fabric.stop();
    assert.equal(forwarding(), '1');
    net.onHost('sysctl', '-q', '-w', 'net.ipv4.ip_forward=0');
  });

  test('of two on one host the last to stop turns forwarding off', async () => {
    const one = make();
    const two = make(`${net.instance.slice(0, 6)}z`);
    await Promise.all([one.start(), two.start()]);
    try {
      const [a, b] = [await one.attach('a', {}), await two.attach('a', {})];
      assert.notEqual(a.address.split('.').slice(0, 2).join(), b.address.split('.').slice(0, 2).join());
      await one.setPolicy('a', { allowInternet: true });
      await two.setPolicy('a', { allowInternet: true });
      await one.stop();
      assert.equal(forwarding(), '1');
    } finally {
      await two.stop();
    }
    assert.deepEqual(hostState(), untouched);
  });

  test('a crash between turning forwarding on and stop still ends with it off', async () => {
    const first = make();
    await first.start();
    await first.attach('a', {});
    await first.setPolicy('a', { allowInternet: true });
    await make().stop();
    assert.deepEqual(hostState(), untouched);
  });

  test('while forwarding is on because of us, the host forwards nothing for others', async () => {
    const world = await net.world();
    const other = net.namespace('other');
    net.onHost('ip', 'link', 'add', 'h1', 'type', 'veth', 'peer', 'name', 'o0', 'netns', other);
    net.onHost('ip', 'addr', 'add', '198.51.100.1/24', 'dev', 'h1');
    net.onHost('ip', 'link', 'set', 'h1', 'up');
    for (const line of ['addr add 198.51.100.2/24 dev o0', 'link set o0 up', 'route add default via 198.51.100.1'])
      net.onHost('ip', '-n', other, ...line.split(' '));
    const send = `import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("${WORLD_ADDRESS}", 80))`;
    const passes = async () => {
      await world.ask({ op: 'forget' });
      net.onHost('nsenter', `--net=/run/netns/${other}`, 'python3', '-c', send);
      // One that surely arrives, behind it on the same wire.
      net.onHost('python3', '-c', send);
      const seen = await until('a packet', async () => {
        const { packets } = (await world.ask({ op: 'seen' })) as { packets: SeenPacket[] };
        return packets.some(({ source }) => source === HOST_ADDRESS) ? packets : undefined;
      });
      return seen.some(({ source }) => source === '198.51.100.2');
    };
    try {
      const fabric = make();
      await fabric.start();
      await fabric.attach('a', {});
      assert.equal(await passes(), false);
      await fabric.setPolicy('a', { allowInternet: true });
      assert.equal(forwarding(), '1');
      assert.equal(await passes(), false);
      await fabric.stop();
      net.onHost('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1');
      assert.equal(await passes(), true, 'the wire works where forwarding is the choice of the owner');
    } finally {
      net.onHost('sysctl', '-q', '-w', 'net.ipv4.ip_forward=0');
      net.onHost('ip', 'link', 'del', 'h1');
      await world.end();
    }
  });

  test('the subnet keeps clear of the routes of the host', async () => {
    const first = make();
    await first.start();
    const { address } = await first.attach('a', {});
    await first.stop();
    const taken = address.split('.').slice(0, 2).join('.');
    net.onHost('ip', 'route', 'add', `${taken}.128.0/24`, 'via', WORLD_ADDRESS);
    try {
      await first.start();
      const again = await first.attach('a', {});
      assert.notEqual(again.address.split('.').slice(0, 2).join('.'), taken);
      await first.stop();
    } finally {
      net.onHost('ip', 'route', 'del', `${taken}.128.0/24`);
    }
  });

  test('a foreign table that drops forwarded packets is named, with its fix', async () => {
    net.onHost('nft', 'add table ip filter');
    net.onHost('nft', 'add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }');
    const fabric = make();
    await fabric.start();
    net.onHost('nft', 'delete table ip filter');
    const notice = fabric.notices.find((line) => line.includes('ip filter FORWARD'));
    assert.match(notice ?? '', /Fix: nft insert rule ip filter FORWARD oifname "cpv-/);
  });
});
