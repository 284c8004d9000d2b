/** The agent of a jail: there from the first word on, one at a time, and never a way out of the jail for whoever connects. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { connectAgent } from '../../src/channel/client.ts';
import { commandLine, isAlive, readProcess } from '../../src/isolation/process-table.ts';
import { eachRuntime, type JailRig, SHAPE, said, sh, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  test('there is none before somebody speaks; from then on one, which the next session finds', async () => {
    const machine = await rig.clone('ondemand');
    assert.deepEqual(await agentsOf(rig, 'ondemand'), []);
    assert.ok((await rig.pids('ondemand')).length <= 2);
    await withAgent(machine, (agent) => said(agent, 'echo first > /tmp/left'));
    const [first, ...more] = await agentsOf(rig, 'ondemand');
    assert.ok(first !== undefined && more.length === 0);
    const { startTime } = readProcess(first)!;
    await withAgent(machine, async (agent) => assert.equal(await said(agent, 'cat /tmp/left'), 'first'));
    assert.deepEqual(await agentsOf(rig, 'ondemand'), [first]);
    assert.ok(isAlive({ pid: first, startTime }));
    // Huge pages are refused to VMMs by the process that starts them, and reach no jail.
    assert.match(readFileSync(`/proc/${first}/status`, 'utf8'), /^THP_enabled:\t1$/m);
  });

  test('one that nobody needs any more ends by itself, also when it has watched a folder; one with a process stays', async () => {
    const [idle, busy] = [await rig.clone('idle'), await rig.clone('busy')];
    await withAgent(idle, async (agent) => {
      const watch = await agent.watch('/tmp', { recursive: false, includeEntry: false });
      watch.close();
    });
    await withAgent(busy, (agent) =>
      agent.spawn({ cmd: '/bin/sleep', args: ['777'], stdin: false }).then((process) => process.detach()),
    );
    await until('it is gone', async () => (await agentsOf(rig, 'idle')).length === 0, 60_000);
    assert.equal((await agentsOf(rig, 'busy')).length, 1);
    await withAgent(idle, (agent) => agent.ping());
  });

  test('a second channel while one is open, or opening, is a conflict; closed, it is free again', async () => {
    const machine = await rig.clone('one');
    const opening = machine.openChannel();
    await assert.rejects(machine.openChannel(), { code: 'conflict' });
    const channel = await opening;
    await assert.rejects(machine.openChannel(), { code: 'conflict' });
    channel.destroy();
    await withAgent(machine, (agent) => agent.ping());
  });

  test('one that was killed is started again, though what it had started lives on', async () => {
    const machine = await rig.clone('killed');
    await withAgent(machine, (agent) => said(agent, 'setsid sleep 777 > /dev/null 2>&1 & echo'));
    const [first] = await agentsOf(rig, 'killed');
    const identity = { pid: first!, startTime: readProcess(first!)!.startTime };
    process.kill(first!, 'SIGKILL');
    await until('the agent is dead', () => !isAlive(identity));
    await withAgent(machine, async (agent) => {
      assert.equal(await said(agent, 'pgrep -fxc "sleep 777"'), '1');
      const again = await agentsOf(rig, 'killed');
      assert.equal(again.length, 1);
      assert.notEqual(again[0], first);
    });
    assert.ok(
      isAlive(machine.record.pid ? { pid: machine.record.pid, startTime: machine.record.pidStartTime } : identity),
    );
  });

  test('one that is killed under a session ends the session, and the next has another', async () => {
    const machine = await rig.clone('cut');
    const agent = await connectAgent(await machine.openChannel(), { deadlineMs: 20_000 });
    process.kill((await agentsOf(rig, 'cut'))[0]!, 'SIGKILL');
    await agent.closed;
    await until('the channel is closed', async () => {
      try {
        await withAgent(machine, (other) => other.ping());
        return true;
      } catch (error) {
        // The end of a session comes before the end of the process: its socket may still take one.
        if (['conflict', 'unavailable'].includes((error as { code?: string }).code ?? '')) return false;
        throw error;
      }
    });
  });

  test('an aborted opening is told as such, and leaves the next one to work', async () => {
    const machine = await rig.clone('abort');
    const giveUp = new AbortController();
    const opening = machine.openChannel(giveUp.signal);
    giveUp.abort();
    await assert.rejects(opening, { code: 'aborted' });
    await assert.rejects(machine.openChannel(AbortSignal.abort()), { code: 'aborted' });
    await withAgent(machine, (agent) => agent.ping());
    assert.equal((await agentsOf(rig, 'abort')).length, 1);
  });

  test('nothing that root inside makes of its paths leads the host elsewhere', async () => {
    const machine = await rig.clone('tricks');
    await withAgent(machine, async (agent) => {
      // The socket is in no folder of the jail's.
      assert.equal(await said(agent, 'find / -xdev -type s 2>/dev/null; find /run -type s 2>/dev/null; true'), '');
      await said(
        agent,
        [
          // Every name that a start of the agent might go through, turned into something else.
          'mv /bin/busybox /bin/bb 2>/dev/null; cd /proc/1/root && ln -sfn "$PWD/nowhere" /tmp/app; cd /',
          'mv /etc/ld.so.cache /etc/ld.so.cache.old; echo /tmp/evil.so > /etc/ld.so.preload',
          'mv /etc/passwd /etc/passwd.old; ln -s /proc/self/environ /etc/passwd',
          'rm -rf /root; ln -s /proc/1/cwd /root; chmod 0 /home /var /opt',
          'true',
        ].join('\n'),
      );
    });
    const [first] = await agentsOf(rig, 'tricks');
    process.kill(first!, 'SIGKILL');
    await until('the agent is dead', async () => (await agentsOf(rig, 'tricks')).length === 0);
    await withAgent(machine, async (agent) => {
      await agent.ping();
      const [again, ...more] = await agentsOf(rig, 'tricks');
      assert.equal(more.length, 0);
      // It runs from the drive, in the jail.
      assert.match(commandLine(again!)[0]!, /^\/run\/coppice\/drive\//);
      assert.ok((await rig.pids('tricks')).includes(again!));
    });
    const folder = join(rig.machines, 'tricks');
    const socket = lstatSync(join(folder, 'agent.sock'));
    assert.ok(socket.isSocket());
    assert.equal(socket.mode & 0o777, 0o600);
    assert.equal(socket.uid, 0);
  });

  test('the agent’s files of the host’s are few: its socket, and nothing behind it', async () => {
    const machine = await rig.clone('fds');
    await withAgent(machine, async (agent) => {
      const [pid] = await agentsOf(rig, 'fds');
      const open = execFileSync('find', [`/proc/${pid}/fd`, '-type', 'l', '-printf', '%f %l\n'], { encoding: 'utf8' });
      const files = open
        .trim()
        .split('\n')
        .filter((line) => !/ (anon_inode:|pipe:|socket:)/.test(line));
      for (const line of files)
        assert.match(line, / (\/dev\/null|\/dev\/pts|\/dev\/ptmx|\/proc\/|\/sys\/|\/run\/coppice\/drive\/)/);
      // And what it starts has none of those but its own three.
      assert.deepEqual((await said(agent, 'ls /proc/self/fd')).split('\n').map(Number), [0, 1, 2, 3]);
    });
  });

  test('a jail whose tasks are all used up says that no agent can be started, in bounded time, and is destroyed', async () => {
    const machine = await rig.clone('full', { shape: { ...SHAPE, memoryMB: 2_048 } });
    await withAgent(machine, async (agent) => {
      await sh(
        agent,
        'setsid /run/coppice/drive/bin/busybox sh -c "while :; do /run/coppice/drive/bin/busybox sleep 600 & done" >/dev/null 2>&1 & sleep 0.1',
      );
      await until('the fork bomb is at its limit', async () => (await rig.pids('full')).length > 2_000, 60_000);
    });
    for (const pid of await agentsOf(rig, 'full')) process.kill(pid, 'SIGKILL');
    await until('the agent is dead', async () => (await agentsOf(rig, 'full')).length === 0);
    const start = performance.now();
    // The agent's own tasks may have been taken at once by the bomb, or not.
    await withAgent(machine, (agent) => agent.ping()).then(
      () => {},
      (error: { code?: string }) =>
        assert.ok(['start_failed', 'unavailable'].includes(error.code ?? ''), String(error)),
    );
    assert.ok(performance.now() - start < 60_000);
    await machine.destroy();
    assert.deepEqual(await rig.pids('full'), []);
    assert.deepEqual(await rig.backend.census(rig.machines), []);
  });
});

/** Pids of the agents of a jail: programs that run the agent's main file. */
async function agentsOf(rig: JailRig, id: string): Promise<number[]> {
  return (await rig.pids(id)).filter((pid) => commandLine(pid).some((word) => word.endsWith('guest/agent/main.js')));
}
