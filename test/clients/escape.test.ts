/** Root in a jail tries to leave it, to reach its neighbour, and to use up the host: through the SDK, against the service. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, watch, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { type CommandHandle, Sandbox } from 'e2b';
import { listPids } from '../../src/isolation/process-table.ts';
import { ATTACKS, type Bait, program } from '../helpers/escape-attacks.ts';
import { BOMBS, bombProgram, type Held } from '../helpers/escape-bombs.ts';
import { startService } from '../helpers/service.ts';
import { until } from '../helpers/until.ts';

const TEMPLATE = 'base-jail';
const marks = { secret: `s${randomBytes(8).toString('hex')}`, neighbour: `n${randomBytes(8).toString('hex')}` };
const folder = mkdtempSync(join(tmpdir(), 'escape-'));
const service = await startService({ COPPICE_ESCAPE_SECRET: marks.secret, COPPICE_POOL: '1' });
const bait: Bait = {
  file: join(folder, 'bait'),
  socket: `b${randomBytes(8).toString('hex')}`,
  pid: process.pid,
  port: service.port,
  ...marks,
};
writeFileSync(bait.file, 'bait', { mode: 0o666 });
const listener = createServer((socket) => socket.destroy());
const root = { user: 'root', timeoutMs: 60_000 } as const;
const limits = { memoryBytes: 0, diskBytes: 0 };
/** A jail with everything in it that another must not reach. */
let neighbour: Sandbox;

const create = (): Promise<Sandbox> => Sandbox.create(TEMPLATE, service.sdk);

test.before(async () => {
  await new Promise<void>((resolve) => listener.listen(`\0${bait.socket}`, resolve));
  const template = (await service.node.listTemplates()).find((one) => one.aliases.includes(TEMPLATE));
  assert.ok(template, `no template ${TEMPLATE}: its build says why`);
  limits.memoryBytes = template.memoryMB * 2 ** 20;
  limits.diskBytes = template.diskSizeMB * 2 ** 20;
  neighbour = await create();
  await neighbour.files.write(`/tmp/${bait.neighbour}`, 'secret');
  await neighbour.files.write(
    '/tmp/neighbour.py',
    `import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind('\\0' + sys.argv[1])
s.listen()
print('ready', flush=True)
while True: s.accept()`,
  );
  let ready = '';
  await neighbour.commands.run(`exec python3 /tmp/neighbour.py ${bait.neighbour}`, {
    background: true,
    timeoutMs: 0,
    onStdout: (text) => {
      ready += text;
    },
  });
  await until('the neighbour is ready', () => ready.includes('ready'), 60_000);
});

test.after(async () => {
  await neighbour?.kill();
  listener.close();
  rmSync(folder, { recursive: true, force: true });
  assert.deepEqual((await service.stop()).details, []);
});

/** A test with a jail of its own, which can be killed whatever it has done. */
function drill(what: string, run: (attacker: Sandbox, t: TestContext) => Promise<void>): void {
  test(what, async (t) => {
    const attacker = await create();
    try {
      await run(attacker, t);
      await othersAreWell();
    } finally {
      assert.equal(await attacker.kill(), true);
    }
    assert.equal(await attacker.isRunning(), false);
    await othersAreWell();
  });
}

/** The service serves, the neighbour runs what it is told, and the host itself can still start, watch and hold. */
async function othersAreWell(): Promise<void> {
  assert.equal((await service.node.status()).ready, true);
  const listed = await Sandbox.list(service.sdk).nextItems();
  assert.ok(listed.some((one) => one.sandboxId === neighbour.sandboxId));
  const run = await neighbour.commands.run(
    'python3 -c \'import os, pty; pty.openpty(); open("/tmp/w", "w").write("x" * 4096); print("well")\'',
    root,
  );
  assert.equal(run.stdout, 'well\n');
  await promisify(execFile)('/bin/true');
  const watcher = watch(folder);
  const changed = new Promise((resolve) => watcher.once('change', resolve));
  writeFileSync(join(folder, 'watched'), '');
  await changed;
  watcher.close();
  const available = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1];
  assert.ok(Number(available) > 256 * 1024, `${available} KiB available`);
}

drill('every attempt at leaving is refused', async (attacker, t) => {
  for (const [group, attacks] of Object.entries(ATTACKS))
    await t.test(group, async () => {
      await attacker.files.write('/tmp/attacks.py', program(attacks, bait));
      const { stdout } = await attacker.commands.run('python3 /tmp/attacks.py', root);
      const answers = JSON.parse(stdout) as string[];
      assert.equal(answers.length, attacks.length);
      const succeeded = attacks.flatMap(({ what, gives }, index) =>
        gives.includes(answers[index]!) ? [] : [`${what}: ${answers[index]}, not ${gives.join(' or ')}`],
      );
      assert.deepEqual(succeeded, []);
    });
});

drill(
  "seen from the host, a jail's processes are nobody's, filtered, and share no namespace with anyone's",
  async (attacker) => {
    const jails = [neighbour, attacker];
    const mark = `m${randomBytes(8).toString('hex')}`;
    for (const [index, jail] of jails.entries())
      await jail.commands.run(`exec python3 -c "input()" ${mark}${index}`, {
        ...root,
        background: true,
        stdin: true,
      });
    const found = await Promise.all(
      jails.map(async (_, index) => {
        let pids: number[] = [];
        await until(
          'its process',
          () => {
            pids = listPids().filter((pid) => {
              try {
                return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(`${mark}${index}`);
              } catch {
                return false;
              }
            });
            return pids.length > 0;
          },
          30_000,
        );
        return pids[0]!;
      }),
    );
    const namespaces = new Set<string>();
    const users = new Set<string>();
    for (const pid of ['self', ...found]) {
      for (const kind of ['mnt', 'pid', 'net', 'ipc', 'uts', 'user', 'cgroup'])
        namespaces.add(readlinkSync(`/proc/${pid}/ns/${kind}`));
      if (pid === 'self') continue;
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      assert.match(status, /^Seccomp:\s+2$/m);
      // The node refuses huge pages to the VMMs that it starts, and to no jail.
      assert.match(status, /^THP_enabled:\s+1$/m);
      const uid = /^Uid:\s+(\d+)\s/m.exec(status)![1]!;
      assert.ok(Number(uid) > 65_535, `uid ${uid} on the host`);
      users.add(uid);
      const [, first, count] = readFileSync(`/proc/${pid}/uid_map`, 'utf8').trim().split(/\s+/).map(Number);
      assert.deepEqual([first, count], [Number(uid), 65_536]);
    }
    assert.equal(namespaces.size, 7 * 3);
    assert.equal(users.size, 2);
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
    assert.deepEqual(
      mounts.filter((line) => line.includes(service.home.folder) && / (overlay|ext4) /.test(line)),
      [],
      "no jail's files are in the host's mount table",
    );
    // What a jail makes set-user-id is so on disk, as a file of the host's root: nobody else may come at it.
    const files = jails.flatMap(({ sandboxId }) =>
      readdirSync(join(service.home.machines, sandboxId), { recursive: true, encoding: 'utf8' })
        .filter((path) => /\.(ext4|sock)$/.test(path))
        .map((path) => join(sandboxId, path)),
    );
    assert.ok(files.filter((path) => path.endsWith('.ext4')).length >= 2, `${files}`);
    for (const path of files)
      assert.equal(statSync(join(service.home.machines, path)).mode & 0o077, 0, `others may open ${path}`);
  },
);

for (const bomb of BOMBS)
  drill(`using up ${bomb.what} ends at the jail's own limit`, async (attacker) => {
    await attacker.files.write('/tmp/bomb.py', bombProgram(bomb, limits));
    let output = '';
    let ended = false;
    const handle: CommandHandle = await attacker.commands.run('exec python3 /tmp/bomb.py', {
      ...root,
      background: true,
      onStdout: (text) => {
        output += text;
      },
    });
    handle.wait().then(
      () => {
        ended = true;
      },
      () => {
        ended = true;
      },
    );
    await until('it holds what it got, or is killed', () => ended || /^HELD .*\n/m.test(output), 60_000);
    const line = /^HELD (.*)\n/m.exec(output)?.[1];
    const held: Held = line === undefined ? undefined : JSON.parse(line);
    assert.ok(bomb.contained(held, limits), `${line} ${output}`);
    await othersAreWell();
    if (bomb.usable) assert.equal((await attacker.commands.run('echo usable', root)).stdout, 'usable\n');
  });

drill('a jail that kills everything in it, its agent too, can be used again', async (attacker) => {
  await attacker.commands.run('kill -9 -1', { ...root, requestTimeoutMs: 20_000 }).catch(() => undefined);
  await othersAreWell();
  await until(
    'a command runs',
    () =>
      attacker.commands.run('echo usable', { ...root, requestTimeoutMs: 20_000 }).then(
        (run) => run.stdout === 'usable\n',
        () => false,
      ),
    60_000,
  );
});

drill('an impostor in the place of the agent gets nobody but itself', async (attacker) => {
  await attacker.files.write(
    '/tmp/impostor.py',
    `
import ctypes, os, socket, time
libc = ctypes.CDLL(None)
for p in [p for p in os.listdir('/proc') if p.isdigit()]:
    try: line = open('/proc/%s/cmdline' % p, 'rb').read()
    except OSError: continue
    if b'/app/guest/agent/' not in line: continue
    agent = libc.syscall(434, int(p), 0)
    sockets = [libc.syscall(438, agent, int(f), 0) for f in os.listdir('/proc/%s/fd' % p) if os.readlink('/proc/%s/fd/%s' % (p, f)).startswith('socket:')]
    print('taken', len(sockets), flush=True)
    if os.fork(): os._exit(0)
    os.setsid()
    time.sleep(0.5)
    os.kill(int(p), 9)
    end = time.time() + 30
    while time.time() < end:
        for f in sockets:
            s = socket.socket(fileno=os.dup(f))
            s.settimeout(0.2)
            try: s.send(bytes(range(256)) * 64)
            except OSError: pass
            try:
                c = s.accept()[0]
                c.settimeout(0.5)
                c.send(bytes(range(256)) * 4096)
            except OSError: pass
`,
  );
  const taken = await attacker.commands.run('python3 /tmp/impostor.py', root);
  assert.match(taken.stdout, /^taken [1-9]/);
  const deadline = Date.now() + 6_000;
  while (Date.now() < deadline) {
    await attacker.commands.run('echo', { ...root, requestTimeoutMs: 3_000, timeoutMs: 3_000 }).catch(() => undefined);
    await othersAreWell();
  }
});
