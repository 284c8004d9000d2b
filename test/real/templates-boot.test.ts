/** The base image, as `bin/test` has built it, booted: the agent answers, the root is writable, `user` has sudo, orphans are reaped. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentClient } from '../../src/channel/agent.ts';
import { connectAgent } from '../../src/channel/client.ts';
import type { MachineImage } from '../../src/isolation/backend.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { BASE } from '../../src/templates/definitions.ts';
import { buildImage } from '../../src/templates/image.ts';
import { TEMPLATES_HOME } from '../helpers/service.ts';

const BOOT_DEADLINE_MS = 180_000;

/** A microVM of this image under TCG, with nothing of the production backend in it. */
async function boot(
  image: MachineImage,
  folder: string,
): Promise<{ child: ChildProcess; socket: string; console: () => string }> {
  const layer = join(folder, 'layer.img');
  const socket = join(folder, 'channel.sock');
  await writeFile(layer, '');
  await truncate(layer, 256 * 1024 * 1024);
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', layer], { env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` } });
  const drive = (id: string, file: string, serial: string, more: string) => [
    ...['-drive', `if=none,id=${id},file=${file},format=raw${more}`],
    ...['-device', `virtio-blk-device,drive=${id},serial=${serial}`],
  ];
  const tsc = Number(
    /cpu MHz\s*: ([\d.]+)/.exec(execFileSync('cat', ['/proc/cpuinfo'], { encoding: 'utf8' }))?.[1] ?? 0,
  );
  const clock = `tsc_early_khz=${Math.round(tsc * 1000)} tsc=reliable lpj=${Math.round(tsc * 4000)} no_timer_check`;
  const args = [
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-serial', 'stdio'],
    ...['-M', 'microvm,acpi=on,rtc=on,pit=off,pic=off,x-option-roms=off,isa-serial=on', '-m', '512'],
    ...['-accel', 'tcg', '-cpu', 'max', '-global', 'virtio-mmio.force-legacy=false'],
    ...drive('root', image.rootfs, 'coppice-root', ',readonly=on'),
    ...drive('agent', image.agentDrive, 'coppice-agent', ',readonly=on'),
    ...drive('layer', layer, 'coppice-layer', ''),
    ...['-device', 'virtio-serial-device', '-chardev', `socket,id=channel,path=${socket},server=on,wait=off`],
    ...['-device', 'virtserialport,chardev=channel,name=coppice.channel'],
    ...['-kernel', image.kernel, '-initrd', image.initrd],
    ...[
      '-append',
      `console=ttyS0 loglevel=5 panic=-1 net.ifnames=0 random.trust_cpu=on nowatchdog mitigations=off ${clock}`,
    ],
  ];
  const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  child.stdout!.on('data', (chunk) => {
    said = (said + chunk).slice(-20_000);
  });
  child.stderr!.on('data', (chunk) => {
    said = (said + chunk).slice(-20_000);
  });
  return { child, socket, console: () => said };
}

async function dial(path: string): Promise<Socket> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const socket = connect(path);
    const connected = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    if (connected) return socket;
    assert.ok(Date.now() < deadline, 'the VMM opened its socket');
    await sleep(50);
  }
}

async function run(agent: AgentClient, command: string): Promise<{ code: number; output: string }> {
  const child = await agent.spawn({ cmd: '/bin/bash', args: ['-l', '-c', command], stdin: false, user: 'user' });
  let output = '';
  for await (const event of child.output) {
    if (event.type === 'exit') return { code: event.exitCode, output: output.trim() };
    output += Buffer.from(event.bytes).toString('utf8');
  }
  throw new Error('no exit event');
}

test('the base image', { timeout: 900_000 }, async (context) => {
  const folder = await mkdtemp(join(tmpdir(), 'coppice-boot-'));
  context.after(() => rm(folder, { recursive: true, force: true }));
  const steps = new Set<string>();
  const image = await buildImage(BASE, {
    imagesFolder: join(TEMPLATES_HOME, 'images'),
    onProgress: ({ step, state }) => steps.add(`${step} ${state}`),
  });
  assert.deepEqual(
    [...steps].filter((step) => !step.endsWith(' running')).sort(),
    ['agent-drive cached', 'initrd cached', 'kernel cached', 'rootfs cached'],
    'a second build finds everything',
  );

  const vm = await boot(image, folder);
  context.after(() => vm.child.kill('SIGKILL'));
  const bootedAt = performance.now();
  const agent = await connectAgent(await dial(vm.socket), { log: silentLog, deadlineMs: BOOT_DEADLINE_MS }).catch(
    (error) => {
      throw new Error(`the agent did not answer; the console said:\n${vm.console()}`, { cause: error });
    },
  );
  context.diagnostic(`VMM start to agent answer: ${((performance.now() - bootedAt) / 1000).toFixed(1)} s`);

  await context.test('user may become root without a password, also under a name that no DNS knows', async () => {
    assert.deepEqual(await run(agent, 'id -u; whoami; pwd; sudo -n id -u'), {
      code: 0,
      output: '1000\nuser\n/home/user\n0',
    });
    await agent.identity({ hostname: 'some-other-name', network: null });
    const startedAt = performance.now();
    assert.deepEqual(await run(agent, 'sudo -n hostname'), { code: 0, output: 'some-other-name' });
    assert.ok(performance.now() - startedAt < 8_000, 'nothing waited for DNS');
  });

  await context.test('the whole root is writable, and it is on the layer', async () => {
    const command =
      'echo x | sudo tee /etc/probe /usr/bin/probe >/dev/null && sudo mv /usr/share/perl5 /usr/share/moved && cat /etc/probe && stat -f -c %T /';
    assert.deepEqual(await run(agent, command), { code: 0, output: 'x\noverlayfs' });
  });

  await context.test('devices, terminals and mounts are there', async () => {
    const command =
      'test -c /dev/null -a -d /dev/pts -a -d /dev/shm && echo a > /dev/shm/x && test -e /proc/self/fd/0 && ls /sys/fs/cgroup/cgroup.controllers && script -qc tty /dev/null && ulimit -n';
    const { code, output } = await run(agent, command);
    assert.equal(code, 0, output);
    assert.match(output, /\/dev\/pts\/\d/);
    assert.match(output, /1048576$/);
  });

  await context.test('the agent drive cannot be written', async () => {
    assert.notEqual((await run(agent, 'sudo touch /run/coppice/drive/x')).code, 0);
  });

  await context.test('orphans are reaped', async () => {
    await run(agent, 'for i in 1 2 3 4 5; do (setsid sleep 0.2 &); done');
    const deadline = Date.now() + 30_000;
    for (;;) {
      const { output } = await run(agent, 'ps -eo ppid=,stat=,comm= | grep -E "^ *1 .*sleep" | wc -l');
      if (output === '0') break;
      assert.ok(Date.now() < deadline, 'in time');
    }
  });

  await context.test('nothing in the image is secret or an identity', async () => {
    const { output } = await run(
      agent,
      'sudo sh -c "ls /etc/ssh/ssh_host_* 2>/dev/null; cat /etc/apt/apt.conf.d/99mmdebstrap 2>/dev/null; ls /var/lib/apt/lists | grep -v partial | grep -v lock; cut -d: -f2 /etc/shadow | sort -u"',
    );
    assert.deepEqual(
      output.split('\n').filter((line) => !['!', '*', '!*'].includes(line)),
      [],
    );
  });

  await context.test('the machine ends when the agent does', async () => {
    const exited = new Promise((resolve) => vm.child.once('exit', resolve));
    agent
      .spawn({
        cmd: '/bin/bash',
        args: ['-c', 'kill -9 $(pgrep -f app/guest/agent/main.js)'],
        stdin: false,
        user: 'root',
      })
      .catch(() => {});
    const late = AbortSignal.timeout(60_000);
    const failed = once(late, 'abort').then(() => assert.fail('the VMM still runs'));
    await Promise.race([exited, failed]);
    assert.match(vm.console(), /coppice-init: the agent ended with 137/);
  });
});
