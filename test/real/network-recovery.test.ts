/** Killing a fabric at any point loses nothing and leaks nothing: the next one finds, repairs, and can remove it all. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { afterEach, describe } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Attachment } from '../../src/network/fabric.ts';
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { HOST_ADDRESS, KINDS, networkTest, type SeenPacket, until, WORLD_ADDRESS } from '../helpers/netns.ts';

networkTest(import.meta.filename, (net) => {
  for (const kind of KINDS)
    describe(kind, () => {
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
        namespaces: readdirSync('/run/netns').filter((name) => name.startsWith(namespace)),
      });
      const untouched = hostState();
      const journalFile = `${net.stateFolder}/${net.instance}/network.json`;
      const nothing = { ports: [], addresses: [], rules: [] };
      /** As the census lists it. */
      const portsOf = (at: Attachment) => (kind === 'tap' ? [at.port] : [at.port, at.namespace]);
      const portsEach = kind === 'tap' ? 1 : 2;

      afterEach(async () => {
        await make().stop();
      });

      test('stop leaves the host as it was, and is idempotent', async () => {
        const fabric = make();
        await fabric.start();
        assert.equal(forwarding(), '0', 'forwarding is not needed yet');
        for (const id of ['a', 'b']) await fabric.attach(id, { kind, uid: 1234 });
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
          await fabric.attach('a', { kind });
          await fabric.stop();
          assert.deepEqual(hostState(), untouched);
        }
      });

      test('the census counts a sandbox, and counts back to zero after detach', async () => {
        const fabric = make();
        await fabric.start();
        assert.deepEqual(await fabric.census(), nothing);
        const at = await fabric.attach('a', { kind });
        await fabric.setPolicy('a', { allowInternet: true });
        const census = await fabric.census();
        assert.deepEqual([census.ports, census.addresses], [portsOf(at), [at.address]]);
        assert.equal(census.rules.length, 4, census.rules.join());
        await fabric.detach('a');
        assert.deepEqual(await fabric.census(), nothing);
        await fabric.detach('a');
        assert.deepEqual(await fabric.attached(), []);
      });

      if (kind === 'tap')
        test('a tap belongs to the uid that was asked for', async () => {
          const fabric = make();
          await fabric.start();
          const { port } = await fabric.attach('a', { kind, uid: 4321 });
          assert.match(inside('ip', '-d', 'link', 'show', 'dev', port), /tun type tap .*persist on user 4321 /);
        });

      test('after kill -9 the next process finds sandboxes, and can end them', async () => {
        const first = make();
        await first.start();
        const made = await Promise.all(['a', 'b', 'c'].map((id) => first.attach(id, { kind, uid: 7 })));
        await first.setPolicy('b', { allowInternet: true });

        const second = make();
        const order = (list: readonly Attachment[]) => [...list].sort((x, y) => x.id.localeCompare(y.id));
        assert.deepEqual(order(await second.attached()), made);
        assert.deepEqual((await second.census()).ports.length, 3 * portsEach);
        await second.detach('b');
        assert.deepEqual(order(await second.attached()), [made[0], made[2]]);
        assert.equal((await second.census()).rules.length, 4);
        const again = await second.attach('a', { kind, uid: 7 });
        assert.deepEqual(again, made[0], 'attach is idempotent across processes');
        const other = await second.attach('d', { kind });
        assert.equal(new Set([...made, other].map(({ address }) => address)).size, 4);
        assert.equal(new Set([...made, other].map(({ port }) => port)).size, 4);
      });

      test('intents that a crash left half done are undone or completed', async () => {
        const first = make();
        await first.start();
        for (const id of ['whole', 'attaching', 'detaching', 'unplugged', 'nameless']) await first.attach(id, { kind });
        await first.setPolicy('detaching', { allowInternet: true });
        const journal = JSON.parse(await readFile(journalFile, 'utf8')) as {
          leases: { id: string; state: string; port: string }[];
        };
        for (const lease of journal.leases) if (lease.id.endsWith('aching')) lease.state = lease.id;
        await writeFile(journalFile, JSON.stringify(journal));
        const portOf = (wanted: string) => journal.leases.find(({ id }) => id === wanted)!.port;
        inside('ip', 'link', 'del', portOf('unplugged'));
        if (kind === 'tap') inside('ip', 'link', 'del', portOf('nameless'));
        else net.onHost('ip', 'netns', 'del', `${namespace}-${portOf('nameless').slice(2)}`);
        net.onHost('ip', 'netns', 'add', `${namespace}-998`);
        await writeFile(`/run/netns/${namespace}-997`, '');
        inside('ip', 'tuntap', 'add', 'dev', 'cp999', 'mode', 'tap');

        const second = make();
        await second.start();
        assert.deepEqual(
          (await second.attached()).map(({ id }) => id),
          ['whole'],
        );
        const census = await second.census();
        assert.deepEqual([census.ports.length, census.addresses.length, census.rules.length], [portsEach, 1, 2]);
      });

      test('a journal that cannot be read costs the sandboxes their network, and leaks nothing', async () => {
        const first = make();
        await first.start();
        await first.attach('a', { kind });
        await writeFile(journalFile, '{"version":2,"lea');
        const second = make();
        await second.start();
        assert.deepEqual(await second.attached(), []);
        assert.deepEqual(await second.census(), nothing);
      });

      test('start repairs what somebody took away', async () => {
        const first = make();
        await first.start();
        const at = await first.attach('a', { kind });
        await first.setPolicy('a', { allowInternet: true });
        inside('nft', 'flush', 'ruleset');
        inside('ip', 'route', 'del', `${at.address}/32`);
        net.onHost('nft', 'delete', 'table', 'inet', `coppice_${net.instance}`);
        net.onHost('ip', 'link', 'del', `cpv-${net.instance}`);
        await first.start();
        const census = await first.census();
        assert.deepEqual([census.ports, census.addresses, census.rules.length], [portsOf(at), [at.address], 4]);
        assert.match(inside('ip', 'route', 'get', WORLD_ADDRESS), /dev up0/);
        assert.match(net.onHost('nft', 'list', 'tables'), new RegExp(`coppice_${net.instance}`));
        await first.stop();
        assert.deepEqual(hostState(), untouched);
      });

      test('rules that somebody took away come back with the next change', async () => {
        const fabric = make();
        await fabric.start();
        await fabric.attach('a', { kind });
        inside('nft', 'flush', 'ruleset');
        await fabric.setPolicy('a', { allowInternet: true });
        assert.equal((await fabric.census()).rules.length, 4);
      });

      test('a namespace file left by an interrupted start is no obstacle', async () => {
        await writeFile(`/run/netns/${namespace}`, '');
        const fabric = make();
        await fabric.start();
        await fabric.attach('a', { kind });
        assert.equal((await fabric.census()).ports.length, portsEach);
      });

      test('many at once, in one breath', async () => {
        const fabric = make();
        await fabric.start();
        const ids = Array.from({ length: 60 }, (_, index) => `s${index}`);
        const made = await Promise.all(ids.map((id) => fabric.attach(id, { kind })));
        assert.equal(new Set(made.map(({ address }) => address)).size, 60);
        await Promise.all(ids.map((id, index) => fabric.setPolicy(id, { allowInternet: index % 2 === 0 })));
        assert.equal((await fabric.census()).rules.length, 60 * 2 + 30 * 2);
        await Promise.all([
          ...ids.slice(0, 40).map((id) => fabric.detach(id)),
          fabric.attach('late', { kind }),
          fabric.start(),
        ]);
        assert.equal((await fabric.attached()).length, 21);
        await Promise.all([...ids.map((id) => fabric.detach(id)), fabric.detach('late')]);
        assert.deepEqual(await fabric.census(), nothing);
      });

      test('a stray device under the name of a port to come is no obstacle', async () => {
        const fabric = make();
        await fabric.start();
        const journal = JSON.parse(await readFile(journalFile, 'utf8')) as { nextLease: number };
        inside('ip', 'link', 'add', `cp${journal.nextLease + 1}`, 'type', 'veth', 'peer', 'name', 'stray');
        await writeFile(`/run/netns/${namespace}-${journal.nextLease + 2}`, '');
        await Promise.all(['a', 'b', 'c'].map((id) => fabric.attach(id, { kind })));
        assert.equal((await fabric.attached()).length, 3);
        assert.equal((await fabric.census()).rules.length, 6);
      });

      test('forwarding that was on before stays on, and nothing of the host is guarded', async () => {
        net.onHost('sysctl', '-q', '-w', 'net.ipv4.ip_forward=1');
        const fabric = make();
        await fabric.start();
        await fabric.attach('a', { kind });
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
          const [a, b] = [await one.attach('a', { kind }), await two.attach('a', { kind })];
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
        await first.attach('a', { kind });
        await first.setPolicy('a', { allowInternet: true });
        await make().stop();
        assert.deepEqual(hostState(), untouched);
      });

      test('while forwarding is on because of us, the host forwards nothing for others', async () => {
        const other = net.namespace(`other-${kind}`);
        const world = await net.world();
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
          await fabric.attach('a', { kind });
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
        const { address } = await first.attach('a', { kind });
        await first.stop();
        const taken = address.split('.').slice(0, 2).join('.');
        net.onHost('ip', 'route', 'add', `${taken}.128.0/24`, 'via', WORLD_ADDRESS);
        try {
          await first.start();
          const again = await first.attach('a', { kind });
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

  test('killed at any moment, a fabric leaves nothing that the next does not find', async () => {
    const instance = `${net.instance.slice(0, 6)}y`;
    const stateFolder = `${net.stateFolder}/${instance}`;
    const open = () => createNftablesFabric({ instance, stateFolder, log: silentLog });
    try {
      for (let round = 0; round < 5; round++) {
        const churn = net.onHostLater(
          process.execPath,
          '--disable-warning=ExperimentalWarning',
          join(import.meta.dirname, '../helpers/netns-churn.ts'),
          instance,
          stateFolder,
        );
        await until('churn', async () => (churn.output().includes('begun') ? true : undefined));
        await sleep(randomInt(10, 400));
        await churn.end();
        const next = open();
        // A command that the killed process had begun may go on for a moment; the next start sees to what it made.
        await until('all is accounted for', async () => {
          await next.start();
          const [attached, census] = [await next.attached(), await next.census()];
          const parts = attached.flatMap((at) => (at.kind === 'tap' ? [at.port] : [at.port, at.namespace]));
          const addresses = attached.map(({ address }) => address);
          const known = (rule: string) => attached.some(({ port }) => rule.split(' ').includes(port));
          const same = (one: readonly string[], other: readonly string[]) =>
            [...one].sort().join() === [...other].sort().join();
          const whole = same(census.ports, parts) && same(census.addresses, addresses) && census.rules.every(known);
          return whole ? true : undefined;
        });
      }
      const last = open();
      await last.start();
      const attached = await last.attached();
      assert.ok(attached.length > 0, 'each round leaves some');
      await Promise.all(attached.map(({ id }) => last.detach(id)));
      assert.deepEqual(await last.census(), { ports: [], addresses: [], rules: [] });
    } finally {
      await open().stop();
    }
  });
});
