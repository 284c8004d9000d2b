/** What the host serves at the gateway: to whom it is given, at one port, and to nobody else; and where the gateway is found. */
import assert from 'node:assert/strict';
import test, { after, before, describe } from 'node:test';
import { type Attachment, type NetworkFabric, SERVICE_PORT } from '../../src/network/fabric.ts';
import { GATEWAY_MAC } from '../../src/network/nftables/config.ts';
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { KINDS, networkTest, type Puppet, until } from '../helpers/netns.ts';

networkTest(import.meta.filename, (net) => {
  for (const kind of KINDS)
    describe(kind, () => {
      const make = () => createNftablesFabric({ instance: net.instance, stateFolder: net.stateFolder, log: silentLog });
      let fabric: NetworkFabric = make();
      let world: Puppet;
      let given: Attachment;
      let other: Attachment;
      const guests: Record<string, Puppet> = {};
      const servers: { end(): Promise<void> }[] = [];
      let number = 0;
      const connect = (guest: Puppet, host: string, port: number) =>
        guest.ask({ op: 'connect', name: `c${++number}`, host, port, timeout: 0.7 });
      const inside = ['nsenter', `--net=${net.fabricNamespace}`];
      const macs = () =>
        [given, other].map(
          ({ port }) =>
            (JSON.parse(net.onHost(...inside, 'ip', '-j', 'link', 'show', 'dev', port)) as [{ address: string }])[0]
              .address,
        );

      before(async () => {
        await fabric.start();
        world = await net.world();
        given = await fabric.attach('given', { kind });
        other = await fabric.attach('other', { kind, policy: { allowInternet: true } });
        guests.given = await net.guest(given);
        guests.other = await net.guest(other);
        for (const port of [SERVICE_PORT, SERVICE_PORT + 1]) {
          const listening = net.onHostLater(...inside, 'python3', '-uc', LISTEN, String(port));
          servers.push(listening);
          await until('it listens', async () => listening.output().includes('listening') || undefined);
        }
      });

      after(async () => {
        for (const one of [...servers, ...Object.values(guests), world]) await one?.end();
        await fabric.stop();
      });

      test('it is reached by whoever it is opened for, without any other way out, and through a restart', async () => {
        assert.notDeepEqual(await connect(guests.given!, given.gateway, SERVICE_PORT), { ok: true });
        await fabric.openService('given');
        await fabric.openService('given');
        assert.deepEqual(await connect(guests.given!, given.gateway, SERVICE_PORT), { ok: true });
        assert.deepEqual(await guests.given!.ask({ op: 'exchange', name: `c${number}`, data: 'x', timeout: 0.7 }), {
          data: 'x',
        });
        await fabric.setPolicy('given', { allowInternet: true });
        await fabric.setPolicy('given', { allowInternet: false });
        fabric = make();
        await fabric.start();
        assert.deepEqual(await connect(guests.given!, given.gateway, SERVICE_PORT), { ok: true });
      });

      test('neither another port of it, nor any other address of the host, nor the other sandbox', async () => {
        for (const [host, port] of [
          [given.gateway, SERVICE_PORT + 1],
          [
            net
              .onHost(...inside, 'hostname', '-I')
              .trim()
              .split(' ')
              .find((one) => one !== given.gateway)!,
            SERVICE_PORT,
          ],
          [other.address, SERVICE_PORT],
        ] as const)
          assert.notDeepEqual(await connect(guests.given!, host, port), { ok: true }, `${host}:${port}`);
        assert.notDeepEqual(await connect(guests.other!, other.gateway, SERVICE_PORT), { ok: true });
      });

      test('no sandbox opens more of them a second than it may', async () => {
        let failed = 0;
        for (let index = 0; index < 200 && failed === 0; index++)
          if (!(await connect(guests.given!, given.gateway, SERVICE_PORT)).ok) failed++;
        assert.equal(failed, 1);
        await until('it may again', async () =>
          (await connect(guests.given!, given.gateway, SERVICE_PORT)).ok ? true : undefined,
        );
      });

      test('what the gateway is on the link is the same at every port', () => {
        const [one, two] = macs();
        assert.equal(one, GATEWAY_MAC);
        assert.equal(one, two);
      });

      test('it ends with its attachment', async () => {
        await fabric.detach('given');
        const served = net.onHost(...inside, 'nft', 'list', 'set', 'inet', 'coppice', 'served');
        assert.doesNotMatch(served, /cp/);
        await assert.rejects(fabric.openService('given'), /has no network/);
      });
    });
});

const LISTEN = `
import socket, sys, threading
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("listening")
def echo(one):
    while data := one.recv(100): one.sendall(data)
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
`;
