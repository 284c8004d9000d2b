import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test, { after, before } from 'node:test';
import type { AgentError } from '../../src/channel/agent.ts';
import type { WatchEvent } from '../../src/channel/protocol.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
let folder: string;
let turn = 0;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());
test.beforeEach(() => {
  folder = path.join(agent.root, 'home/user', `w${turn++}`);
  fs.mkdirSync(folder);
});

/** Events up to the one that `last` accepts, as `event name`. */
async function collect(
  events: AsyncIterable<WatchEvent>,
  last: string,
): Promise<{ all: WatchEvent[]; said: string[] }> {
  const all: WatchEvent[] = [];
  for await (const event of events) {
    all.push(event);
    if (`${event.event} ${event.name}` === last) break;
  }
  return { all, said: all.map(({ event, name }) => `${event} ${name}`) };
}

test('create, write, chmod, rename and remove are told in order, by names relative to the folder', async () => {
  const { events } = await agent.client.watch(folder, { recursive: false, includeEntry: false });
  const at = (name: string): string => path.join(folder, name);
  fs.writeFileSync(at('a'), 'x');
  fs.chmodSync(at('a'), 0o600);
  fs.renameSync(at('a'), at('b'));
  fs.rmSync(at('b'));
  const { said } = await collect(events, 'remove b');
  assert.deepEqual(said, ['create a', 'write a', 'chmod a', 'rename a', 'create b', 'remove b']);
});

test('a recursive watch sees new folders, what is quickly put into them, and folders that moved', async () => {
  fs.mkdirSync(path.join(folder, 'old/below'), { recursive: true });
  const { events } = await agent.client.watch(folder, { recursive: true, includeEntry: false });
  fs.mkdirSync(path.join(folder, 'x/y/z'), { recursive: true });
  fs.writeFileSync(path.join(folder, 'old/below/f'), '');
  fs.renameSync(path.join(folder, 'old'), path.join(folder, 'moved'));
  fs.writeFileSync(path.join(folder, 'end'), '');
  const { said } = await collect(events, 'create end');
  for (const want of ['create x', 'create x/y', 'create x/y/z', 'create old/below/f', 'rename old', 'create moved'])
    assert.equal(said.filter((item) => item === want).length, 1, `${want} in ${said.join(', ')}`);
  const second = await agent.client.watch(folder, { recursive: true, includeEntry: false });
  fs.writeFileSync(path.join(folder, 'moved/below/g'), '');
  const { said: more } = await collect(second.events, 'create moved/below/g');
  assert.ok(more.includes('create moved/below/g'));
});

test('without recursion, what is below is not told', async () => {
  fs.mkdirSync(path.join(folder, 'sub'));
  const { events } = await agent.client.watch(folder, { recursive: false, includeEntry: false });
  fs.writeFileSync(path.join(folder, 'sub/hidden'), '');
  fs.writeFileSync(path.join(folder, 'end'), '');
  assert.deepEqual((await collect(events, 'create end')).said, ['create end']);
});

test('entries come with create, write and chmod when asked for', async () => {
  const { events } = await agent.client.watch(folder, { recursive: false, includeEntry: true });
  fs.writeFileSync(path.join(folder, 'a'), 'four');
  const { all } = await collect(events, 'write a');
  assert.equal(all.at(-1)!.entry?.size, 4);
  assert.equal(all.at(-1)!.entry?.path, path.join(folder, 'a'));
});

test('two watches of one folder are independent, and close ends the events', async () => {
  const one = await agent.client.watch(folder, { recursive: false, includeEntry: false });
  const two = await agent.client.watch(folder, { recursive: true, includeEntry: false });
  one.close();
  for await (const _ of one.events) assert.fail('an event after close');
  fs.writeFileSync(path.join(folder, 'a'), '');
  assert.deepEqual((await collect(two.events, 'create a')).said, ['create a']);
});

test('a missing folder and a file are refused', async () => {
  const options = { recursive: false, includeEntry: false };
  fs.writeFileSync(path.join(folder, 'f'), '');
  await assert.rejects(agent.client.watch(path.join(folder, 'no'), options), (e: AgentError) => e.code === 'not_found');
  await assert.rejects(
    agent.client.watch(path.join(folder, 'f'), options),
    (e: AgentError) => e.code === 'invalid_argument',
  );
});

test('a host that does not read is told that events were lost, and the agent stays well', async () => {
  const { events } = await agent.client.watch(folder, { recursive: false, includeEntry: false });
  for (let n = 0; n < 12_000; n++) fs.writeFileSync(path.join(folder, `file-${n % 50}-${'n'.repeat(100)}`), '');
  await agent.client.ping();
  await assert.rejects(
    async () => {
      // Nothing else ends this watch.
      for await (const _ of events) await new Promise((resolve) => setTimeout(resolve, 1));
    },
    (error: AgentError) => error.code === 'resource_exhausted',
  );
  await agent.client.ping();
});
