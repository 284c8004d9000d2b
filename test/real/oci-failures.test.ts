/** A birth that fails says why and leaves nothing; a template or a host that is unfit is refused by name. */
import assert from 'node:assert/strict';
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { IsolationBackend, MachineImage, MachineSpec } from '../../src/isolation/backend.ts';
import { createOciBackend } from '../../src/isolation/jail/oci/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { eachRuntime, FIRST_UID, hostMounts, type JailRig, withAgent } from '../helpers/jail-rig.ts';
import { until } from '../helpers/until.ts';

interface Failure {
  readonly what: string;
  readonly image?: (rig: JailRig) => Partial<MachineImage>;
  readonly spec?: Partial<MachineSpec>;
  readonly code: string;
  readonly message: RegExp;
  /** Refused before anything is made: the caller's folder is left to the caller. */
  readonly early?: boolean;
}

const FAILURES: readonly Failure[] = [
  {
    what: 'a root filesystem that is not there',
    image: (rig) => ({ rootfs: join(rig.home, 'absent') }),
    code: 'start_failed',
    message: /absent/,
  },
  {
    what: 'a root filesystem that is none',
    image: (rig) => ({ rootfs: fileOf(rig, 'text', 'not a file system') }),
    code: 'start_failed',
    message: /mount/,
  },
  {
    what: 'a root filesystem that is cut off',
    image: (rig) => ({ rootfs: cutOff(rig) }),
    code: 'start_failed',
    message: /mount/,
  },
  {
    what: 'an agent drive that is not there',
    image: (rig) => ({ agentDrive: join(rig.home, 'nodrive') }),
    code: 'start_failed',
    message: /nodrive/,
  },
  {
    what: 'an agent drive without its programs',
    image: (rig) => ({ agentDrive: rig.image.rootfs }),
    code: 'start_failed',
    message: /busybox/,
  },
  {
    what: 'a network namespace that is not there',
    spec: { network: { kind: 'namespace', port: 'x', namespace: '/run/netns/absent-of-course' } },
    code: 'start_failed',
    message: /absent-of-course/,
  },
  {
    what: 'a path that is no network namespace',
    spec: { network: { kind: 'namespace', port: 'x', namespace: '/proc/self/ns/uts' } },
    code: 'start_failed',
    message: /./,
  },
  {
    what: 'a network of another kind',
    spec: { network: { kind: 'tap', port: 'x', namespace: '/proc/self/ns/net' } },
    code: 'bad_request',
    message: /network namespace of its own/,
    early: true,
  },
  { what: 'no users of its own', spec: { uid: undefined }, code: 'bad_request', message: /users/, early: true },
  { what: 'users that are the host’s', spec: { uid: 0 }, code: 'bad_request', message: /users/, early: true },
  { what: 'an id that is none', spec: { id: '../x' }, code: 'bad_request', message: /id/, early: true },
  {
    what: 'another image than the template’s',
    image: () => ({ hash: 'other' }),
    code: 'checkpoint_corrupt',
    message: /image/,
    early: true,
  },
];

eachRuntime((rig) => {
  afterEach(() => rig.sweepAll());

  for (const { what, image, spec: more, code, message, early } of FAILURES)
    test(`${what}: ${code}`, async () => {
      const mounts = hostMounts();
      const spec = { ...(await rig.spec('fails')), ...more } as MachineSpec;
      await assert.rejects(rig.backend.clone(rig.golden, { ...rig.image, ...image?.(rig) }, spec), { code, message });
      if (early) rmSync(join(rig.machines, 'fails'), { recursive: true });
      await assertNothing(rig, rig.backend);
      assert.deepEqual(hostMounts(), mounts);
    });

  test('a folder that nobody made: start_failed, and nothing is made', async () => {
    const spec = await rig.spec('nofolder');
    rmSync(spec.folder, { recursive: true });
    await assert.rejects(rig.backend.clone(rig.golden, rig.image, spec), { code: 'start_failed' });
    await assertNothing(rig, rig.backend);
  });

  test('given up before, during and just after: aborted, or a jail that works', async () => {
    await assert.rejects(rig.backend.clone(rig.golden, rig.image, await rig.spec('before'), AbortSignal.abort()), {
      code: 'aborted',
    });
    await assertNothing(rig, rig.backend);
    for (let delay = 0; delay <= 120; delay += 12) {
      const giveUp = new AbortController();
      const birth = rig.backend.clone(rig.golden, rig.image, await rig.spec(`given${delay}`), giveUp.signal);
      await sleep(delay);
      giveUp.abort();
      const born = await birth.catch((error: { code?: string }) => {
        assert.equal(error.code, 'aborted', String(error));
        return undefined;
      });
      if (born) await withAgent(born, (agent) => agent.ping());
      await born?.destroy();
      await assertNothing(rig, rig.backend);
    }
  });

  for (const [what, script, message] of [
    ['fails', 'exit 3', /ended with 3/],
    ['fails after the jail has begun', '"$real" "$@"; exit 4', /ended with 4/],
    ['is killed as soon as the jail has begun', '"$real" "$@"; kill -9 $$', /SIGKILL/],
    ['says that it has begun, and has not', 'exit 0', /./],
  ] as const)
    test(`a runtime that ${what}: start_failed, and nothing is left`, async (t) => {
      const backend = await wrapped(t, rig, script);
      const spec = await rig.spec('wrapped');
      await assert.rejects(backend.clone(rig.golden, rig.image, spec), { code: 'start_failed', message });
      await assertNothing(rig, backend);
    });

  test('a runtime that cannot start the agent: the channel says so, the jail lives, the next attempt works', async (t) => {
    const backend = await wrapped(t, rig, '[ -e "$broken" ] && exit 9; exec "$real" "$@"', 'exec');
    const machine = await backend.clone(rig.golden, rig.image, await rig.spec('noagent'));
    fileOf(rig, 'broken', '');
    await assert.rejects(machine.openChannel(), { code: 'start_failed', message: /ended with 9/ });
    rmSync(join(rig.home, 'broken'));
    await withAgent(machine, (agent) => agent.ping());
    await machine.destroy();
    await assertNothing(rig, backend);
  });

  test('a host without the runtime has no jails, says which package, and still sweeps', async (t) => {
    const machine = await rig.clone('remains');
    hidePath(t, join(rig.home, 'empty'));
    const backend = rig.again();
    const probe = await backend.probe();
    assert.equal(probe.usable, false);
    assert.deepEqual(
      probe.notices.map((notice) => new RegExp(`no jails: ${rig.runtime} does not run; install`).test(notice)),
      [true],
    );
    await assert.rejects(backend.openCheckpoint(rig.golden.folder), { code: 'host_unfit' });
    await assert.rejects(backend.clone(rig.golden, rig.image, await rig.spec('never')), { code: 'host_unfit' });
    await backend.sweep('never', rig.machines);
    await backend.sweep('remains', rig.machines);
    await machine.exited;
    await assertNothing(rig, backend);
  });

  test('a host that maps no users has no jails', async () => {
    for (const uids of [undefined, { first: FIRST_UID, slots: 0 }]) {
      const backend = createOciBackend({ log: silentLog, folder: rig.jails, uids, runtimes: [rig.runtime] });
      const { usable, notices } = await backend.probe();
      assert.equal(usable, false);
      assert.match(notices.join(), /users/);
    }
  });

  test('the probe leaves nothing, and two at once are both answered', async () => {
    const found = await Promise.all([rig.again().probe(), rig.again().probe()]);
    for (const { usable, version } of found) {
      assert.ok(usable);
      assert.match(version, new RegExp(rig.runtime));
    }
    assert.deepEqual(
      readdirSync(rig.jails).filter((name) => name.startsWith('test')),
      [],
    );
    await assertNothing(rig, rig.backend);
  });

  for (const [what, spoil] of [
    ['no manifest', (path: string) => rmSync(path)],
    ['an empty manifest', (path: string) => truncateSync(path, 0)],
    ['a manifest cut short', (path: string) => truncateSync(path, 50)],
    [
      'a manifest of another format',
      (path: string) => edit(path, (text) => text.replace('"format": 2', '"format": 3')),
    ],
    ['a manifest of another backend', (path: string) => edit(path, (text) => text.replace('"oci"', '"qemu"'))],
    ['a manifest without its image', (path: string) => edit(path, (text) => text.replace('"imageHash"', '"image"'))],
    ['a shape of nothing', (path: string) => edit(path, (text) => text.replace(/"memoryMB": \d+/, '"memoryMB": 0'))],
    ['a list for a manifest', (path: string) => writeFileSync(path, '[]')],
    [
      'a folder for a manifest',
      (path: string) => {
        rmSync(path);
        mkdirSync(path);
      },
    ],
  ] as const)
    test(`a template with ${what} is refused`, async () => {
      const folder = join(rig.home, 'spoilt');
      cpSync(rig.golden.folder, folder, { recursive: true });
      const path = join(folder, 'manifest.json');
      chmodSync(path, 0o600);
      spoil(path);
      await assert.rejects(rig.backend.openCheckpoint(folder, { verify: true }), { code: 'checkpoint_corrupt' });
      rmSync(folder, { recursive: true });
    });

  test('a template is published whole, over whatever an earlier attempt has left', async () => {
    const out = join(rig.home, 'second');
    mkdirSync(`${out}.new`);
    writeFileSync(`${out}.new/rest`, 'of another time');
    const made = await rig.backend.makeGolden(rig.image, await rig.spec('golden'), out, async () => {}, {});
    assert.deepEqual(readdirSync(out), ['manifest.json']);
    assert.deepEqual((await rig.backend.openCheckpoint(out, { verify: true })).manifest, made.manifest);
    await rig.backend.sweep('golden', rig.machines);
    rmSync(out, { recursive: true });
  });
});

async function assertNothing(rig: JailRig, backend: IsolationBackend): Promise<void> {
  await until('nothing is left', async () => (await backend.census(rig.machines)).length === 0);
  assert.deepEqual(readdirSync(rig.machines), []);
}

function fileOf(rig: JailRig, name: string, text: string): string {
  const path = join(rig.home, name);
  writeFileSync(path, text);
  return path;
}

/** The first megabyte of the root filesystem. */
function cutOff(rig: JailRig): string {
  const path = join(rig.home, 'cut.ext4');
  cpSync(rig.image.rootfs, path);
  truncateSync(path, 2 ** 20);
  return path;
}

interface Cleaning {
  after(work: () => void): void;
}

function hidePath(t: Cleaning, folder: string): void {
  const { PATH } = process.env;
  process.env.PATH = folder;
  t.after(() => {
    process.env.PATH = PATH;
  });
}

/**
 * A backend that has found the runtime in order, and then has `script` in its place for `verb`; `$real` is the runtime,
 * `$broken` a file in the rig's home.
 */
async function wrapped(t: Cleaning, rig: JailRig, script: string, verb = 'run'): Promise<IsolationBackend> {
  const bin = join(rig.home, 'bin');
  mkdirSync(bin, { recursive: true });
  const before = process.env.PATH ?? '';
  const real = before
    .split(delimiter)
    .map((folder) => join(folder, rig.runtime))
    .find((path) => {
      try {
        readFileSync(path);
        return true;
      } catch {
        return false;
      }
    });
  const write = (text: string): void => {
    rmSync(join(bin, rig.runtime), { force: true });
    writeFileSync(join(bin, rig.runtime), `#!/bin/sh\nreal=${real}\nbroken=${rig.home}/broken\n${text}\n`, {
      mode: 0o755,
    });
  };
  write('exec "$real" "$@"');
  process.env.PATH = `${bin}${delimiter}${before}`;
  t.after(() => {
    process.env.PATH = before;
  });
  const backend = rig.again();
  assert.equal((await backend.probe()).usable, true);
  write(`case " $* " in *" ${verb} "*) ${script} ;; *) exec "$real" "$@" ;; esac`);
  return backend;
}

function edit(path: string, change: (text: string) => string): void {
  const text = readFileSync(path, 'utf8');
  assert.notEqual(change(text), text);
  writeFileSync(path, change(text));
}
