/** A jail is born as itself: its names, its users, its place among the host's processes, and nothing of the host's. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { commandLine, readProcess } from '../../src/isolation/process-table.ts';
import {
  cgroupsOf,
  eachRuntime,
  hostMounts,
  rootOf,
  SHAPE,
  said,
  sh,
  statusOf,
  UIDS_EACH,
  withAgent,
} from '../helpers/jail-rig.ts';

const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'] as const;
/** CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT AUDIT_WRITE SETFCAP */
const CAPABILITIES = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31].reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  test('who it is stands in its files and in its kernel, before anybody has spoken to it', async () => {
    const { names } = await rig.spec('who');
    const machine = await rig.clone('who', { names });
    const root = rootOf(machine);
    assert.equal(readFileSync(`${root}/etc/hostname`, 'utf8'), `${names.hostname}\n`);
    assert.equal(readFileSync(`${root}/etc/machine-id`, 'utf8'), `${names.machineID}\n`);
    const hosts = readFileSync(`${root}/etc/hosts`, 'utf8');
    assert.match(hosts, /^127\.0\.0\.1\s+localhost/m);
    assert.deepEqual(hosts.match(/^127\.0\.1\.1\s.*$/gm), [`127.0.1.1\t${names.hostname}`]);
    await withAgent(machine, async (agent) => {
      assert.equal(await said(agent, 'hostname'), names.hostname);
      assert.equal(await said(agent, 'cat /etc/machine-id'), names.machineID);
      assert.match(await said(agent, `getent -s hosts:files hosts ${names.hostname}`), /^127\.0\.1\.1/);
    });
  });

  test('its users are its own: root and user inside are two of its range, sudo works, files stay apart', async () => {
    const first = await rig.spec('users');
    const machine = await rig.clone('users', { uid: first.uid });
    await withAgent(machine, async (agent) => {
      assert.equal(await said(agent, 'id -u; id -g'), '0\n0');
      assert.equal(await said(agent, 'id -u; id -g', 'user'), '1000\n1000');
      assert.equal(await said(agent, 'sudo -n id -u', 'user'), '0');
      assert.equal(
        await said(agent, 'cat /proc/self/uid_map /proc/self/gid_map | tr -s " "'),
        [` 0 ${first.uid} ${UIDS_EACH}`, ` 0 ${first.uid} ${UIDS_EACH}`].join('\n').trim(),
      );
      assert.equal(
        await said(agent, 'cd; touch mine; stat -c "%U %G" mine . /etc/hostname /usr/bin/env', 'user'),
        'user user\nuser user\nroot root\nroot root',
      );
      assert.match((await sh(agent, 'touch /etc/x', 'user')).output, /Permission denied/);
      // To the host, whatever they make belongs to their range.
      const { uid } = lstatSync(join(rootOf(machine), 'home', 'user', 'mine'));
      assert.equal(uid, first.uid + 1_000);
    });
  });

  test('every process of it is in its groups, its namespaces and its range, filtered, and first to go', async () => {
    const { uid } = await rig.spec('procs');
    const machine = await rig.clone('procs', { uid });
    await withAgent(machine, async (agent) => {
      const sleeper = await agent.spawn({ cmd: '/bin/sleep', args: ['1000'], stdin: false, user: 'user' });
      const pids = await rig.pids('procs');
      // All that live in its pid namespace, found by that and not by the group.
      const inside = readdirSync('/proc')
        .filter((name) => /^\d+$/.test(name))
        .map(Number)
        .filter((pid) => namespaceOf(pid, 'pid') === namespaceOf(machine.record.pid, 'pid'));
      assert.deepEqual(
        inside.sort((a, b) => a - b),
        pids,
      );
      assert.ok(pids.includes(machine.record.pid));
      const names = pids.map((pid) => commandLine(pid).join(' '));
      assert.ok(
        names.some((line) => line.includes('guest/agent/main.js')),
        'the agent',
      );
      assert.ok(
        names.some((line) => line === '/bin/sleep 1000'),
        'what it started',
      );
      assert.ok(
        names.some((line) => line.includes('2147483647')),
        'the first process',
      );
      const groups = await cgroupsOf(rig.machines);
      for (const pid of pids) {
        const what = commandLine(pid).join(' ');
        for (const folder of groups.folders('procs'))
          assert.ok(
            readFileSync(`${folder}/cgroup.procs`, 'utf8').split('\n').includes(String(pid)),
            `${what} in ${folder}`,
          );
        for (const member of ['Uid', 'Gid'])
          for (const id of statusOf(pid, member).split(/\s+/).map(Number))
            assert.ok(id >= uid && id < uid + UIDS_EACH, `${what}: ${member} ${id}`);
        for (const id of statusOf(pid, 'Groups').split(/\s+/).filter(Boolean).map(Number))
          assert.ok(id >= uid && id < uid + UIDS_EACH, `${what}: group ${id}`);
        assert.equal(statusOf(pid, 'Seccomp'), '2', what);
        assert.equal(statusOf(pid, 'NoNewPrivs'), '0', what);
        assert.equal(BigInt(`0x${statusOf(pid, 'CapBnd')}`), CAPABILITIES, what);
        assert.equal(BigInt(`0x${statusOf(pid, 'CapEff')}`) & ~CAPABILITIES, 0n, what);
        for (const member of ['CapInh', 'CapAmb']) assert.equal(BigInt(`0x${statusOf(pid, member)}`), 0n, what);
        assert.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '500', what);
        assert.match(readFileSync(`/proc/${pid}/limits`, 'utf8'), /Max core file size\s+0\s+0/);
        for (const kind of NAMESPACES) {
          assert.equal(namespaceOf(pid, kind), namespaceOf(machine.record.pid, kind), `${what}: ${kind}`);
          assert.notEqual(namespaceOf(pid, kind), namespaceOf('self', kind), `${what}: ${kind}`);
        }
        assert.equal(readProcess(pid) !== undefined, true);
      }
      sleeper.detach();
    });
  });

  test('the first process reaps what loses its parent', async () => {
    const machine = await rig.clone('reap');
    await withAgent(machine, async (agent) => {
      await said(agent, 'for i in 1 2 3 4 5; do (sleep 0.05 & exec true) & done; sleep 0.5');
      assert.equal(await said(agent, 'ps -eo stat= | grep -c Z || true'), '0');
    });
  });

  test('nothing of it is mounted on the host, and of the host it sees its limits, devices and names alone', async () => {
    const before = hostMounts();
    const machine = await rig.clone('mounts');
    assert.deepEqual(hostMounts(), before);
    await withAgent(machine, async (agent) => {
      const mounts = (await said(agent, 'cat /proc/self/mountinfo')).split('\n').map((line) => line.split(' '));
      const points = new Map(mounts.map((fields) => [fields[4]!, fields]));
      // No host path leads anywhere from here: what is mounted is the jail's own, or read-only.
      assert.deepEqual(
        [...points.keys()].filter((point) => !/^\/(proc|sys|dev|run)(\/|$)/.test(point)),
        ['/'],
      );
      for (const point of ['/run/coppice/drive', '/proc/sys', '/sys/devices/system/cpu'])
        assert.match(points.get(point)?.[5] ?? '', /(^|,)ro(,|$)/, point);
      for (const line of [
        'echo x > /proc/sys/kernel/hostname',
        'echo 1 > /proc/sys/vm/drop_caches',
        'echo b > /proc/sysrq-trigger',
        'echo x > /sys/devices/system/cpu/cpu0/online',
        'touch /run/coppice/drive/x',
        'mount -t tmpfs none /mnt',
        'umount /run/coppice/drive',
        'umount /proc/sys',
        'mknod /dev/mem c 1 1',
        'unshare -U true',
        'unshare -m true',
        'hostname other',
        'echo -1000 > /proc/self/oom_score_adj',
      ]) {
        const { code, output } = await sh(agent, line);
        assert.notEqual(code, 0, `${line}: ${output}`);
      }
      assert.equal(
        await said(
          agent,
          'for f in kcore keys kallsyms interrupts modules; do head -c1 /proc/$f 2>/dev/null; done; true',
        ),
        '',
      );
      const devices = (await said(agent, 'ls /dev')).split('\n').sort();
      const known = [
        'console',
        'core',
        'fd',
        'full',
        'mqueue',
        'null',
        'ptmx',
        'pts',
        'random',
        'shm',
        'stderr',
        'stdin',
        'stdout',
        'tty',
        'urandom',
        'zero',
      ];
      assert.deepEqual(
        devices.filter((name) => !known.includes(name)),
        [],
      );
      assert.equal(await said(agent, 'nproc'), execFileSync('nproc', { encoding: 'utf8' }).trim());
      assert.equal(await said(agent, 'cat /proc/1/cgroup | cut -d: -f3 | sort -u'), '/');
    });
  });

  test('a jail without a network has none, not the host’s', async () => {
    const machine = await rig.clone('lonely');
    await withAgent(machine, async (agent) => {
      assert.equal(await said(agent, 'cut -d: -f1 -s /proc/net/dev | tr -d " \n"'), 'lo');
      assert.notEqual((await sh(agent, 'ip link set lo mtu 1000')).code, 0);
    });
  });

  test('a jail enters the network namespace that it is given, and cannot change it', async (t) => {
    const name = `cpo${process.pid}`;
    execFileSync('ip', ['netns', 'add', name]);
    t.after(() => execFileSync('ip', ['netns', 'del', name]));
    execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
    const network = { kind: 'namespace', port: 'none', namespace: `/run/netns/${name}` } as const;
    const machine = await rig.clone('netted', { network });
    const inode = /\d+/.exec(namespaceOf(machine.record.pid, 'net'))![0];
    assert.equal(execFileSync('stat', ['-L', '-c', '%i', network.namespace], { encoding: 'utf8' }).trim(), inode);
    await withAgent(machine, async (agent) => {
      for (const line of ['ip link set lo down', 'ip addr add 10.1.2.3/32 dev lo', 'ip link add x type dummy'])
        assert.notEqual((await sh(agent, line)).code, 0, line);
    });
  });

  test('20 at once are 20 apart, and all gone when destroyed', async () => {
    const specs = await Promise.all(Array.from({ length: 20 }, (_, index) => rig.spec(`many${index}`)));
    const machines = await Promise.all(specs.map((spec) => rig.backend.clone(rig.golden, rig.image, spec)));
    for (const kind of NAMESPACES)
      assert.equal(new Set(machines.map(({ record }) => namespaceOf(record.pid, kind))).size, 20, kind);
    machines.forEach((machine, index) => {
      assert.equal(readFileSync(join(rootOf(machine), 'etc', 'hostname'), 'utf8').trim(), specs[index]!.names.hostname);
      assert.equal(statusOf(machine.record.pid, 'Uid').split(/\s+/)[0], String(specs[index]!.uid));
    });
    const [a, b] = machines as [(typeof machines)[0], (typeof machines)[0]];
    await withAgent(a, (agent) => said(agent, 'echo secret > ~/secret'));
    await withAgent(b, async (agent) => assert.notEqual((await sh(agent, 'cat ~/secret')).code, 0));
    await Promise.all(machines.map((machine) => machine.destroy()));
    await Promise.all(machines.map(({ exited }) => exited));
    assert.deepEqual(await rig.backend.census(rig.machines), []);
    assert.deepEqual(readdirSync(rig.machines), []);
  });

  test('the shape is what was sold', async () => {
    const machine = await rig.clone('shape');
    const groups = await cgroupsOf(rig.machines);
    const read = (file: string): string | undefined => {
      for (const folder of groups.folders('shape'))
        try {
          return readFileSync(`${folder}/${file}`, 'utf8').trim();
        } catch {}
      return undefined;
    };
    assert.equal(Number(read('memory.limit_in_bytes') ?? read('memory.max')), SHAPE.memoryMB * 2 ** 20);
    assert.equal(read('pids.max'), '2048');
    const [quota, period] = (read('cpu.max') ?? `${read('cpu.cfs_quota_us')} ${read('cpu.cfs_period_us')}`).split(' ');
    assert.equal(Number(quota) / Number(period), SHAPE.cpuCount);
    await machine.destroy();
  });
});

function namespaceOf(pid: number | 'self', kind: string): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/${kind}`);
  } catch {
    return '';
  }
}
