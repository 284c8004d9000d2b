/** Volumes in a machine: where they may be mounted, and that another machine's are let go. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import test, { after, before } from 'node:test';
import type { AgentError } from '../../src/channel/agent.ts';
import { type HostAgent, startHostAgent } from '../helpers/host-agent.ts';

let agent: HostAgent;
before(async () => {
  agent = await startHostAgent();
});
after(() => agent.stop());

const at = (name: string): string => path.join(fs.realpathSync(agent.root), name);
const mount = (...mounts: { volumeID: string; path: string }[]) =>
  agent.client.mountVolumes({ server: '169.254.1.1', port: 2049, mounts });
const done = () =>
  agent
    .powersUsed()
    .filter(({ power }) => power === 'mount' || power === 'unmount')
    .map(({ power, value }) => [power, value]);
const mounted = (volumeID: string, name: string) => ['mount', { source: `169.254.1.1:/${volumeID}`, target: at(name) }];

test('folders are made, and what was mounted before goes first, the last one before the others', async () => {
  await mount({ volumeID: 'one', path: at('deep/er') }, { volumeID: 'two', path: at('b') });
  assert.ok(fs.statSync(at('deep/er')).isDirectory());
  await mount({ volumeID: 'three', path: at('deep/er') });
  assert.deepEqual(done(), [
    mounted('one', 'deep/er'),
    mounted('two', 'b'),
    ['unmount', at('b')],
    ['unmount', at('deep/er')],
    mounted('three', 'deep/er'),
  ]);
});

test('a file or a link in the way is told as such, and stays', async () => {
  fs.writeFileSync(at('file'), 'kept');
  fs.symlinkSync(at('b'), at('link'));
  for (const name of ['file', 'file/below', 'link', 'link/below'])
    await assert.rejects(
      mount({ volumeID: 'one', path: at(name) }),
      (error: AgentError) => error.code === 'invalid_argument' && /is in the way/.test(error.message),
    );
  assert.equal(fs.readFileSync(at('file'), 'utf8'), 'kept');
});

test('one that is not given to this machine is told as such; those before it are mounted', async () => {
  await assert.rejects(
    mount({ volumeID: 'one', path: at('a') }, { volumeID: 'refused', path: at('c') }),
    (error: AgentError) => error.code === 'failed_precondition' && /EACCES/.test(error.message),
  );
  assert.deepEqual(done().at(-1), mounted('one', 'a'));
});

test('a machine that goes on keeps them; one that becomes another lets them go', async () => {
  await mount({ volumeID: 'one', path: at('a') });
  const before = done().length;
  await agent.client.identity({ generation: 'second', cutConnections: true });
  assert.equal(done().length, before);
  await agent.client.identity({
    machineID: '0123456789abcdef0123456789abcdef',
    generation: 'third',
    cutConnections: true,
  });
  assert.deepEqual(done().slice(before), [['unmount', at('a')]]);
});
