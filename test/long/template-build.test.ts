/** Templates built through the official SDK, on jails in full and once as a microVM; and what is made of them. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { BuildError, type LogEntry, Sandbox, Template, waitForPort } from 'e2b';
import { Template as OlderTemplate } from 'e2b-245';
import { importImage, removeImported } from '../../src/templates/oci/imported.ts';
import { startBuildService } from '../helpers/build-service.ts';
import { makeImage, serve, serveImage, type TestServer } from '../helpers/oci-image.ts';
import { layoutFiles } from '../helpers/oci-layout.ts';
import type { TestService } from '../helpers/service.ts';
import { file, folder, symlink, tar } from '../helpers/tiny-tar.ts';
import { until } from '../helpers/until.ts';

let service: TestService;
let registry: TestServer;
const context = mkdtempSync(join(tmpdir(), 'coppice-context-'));

before(async () => {
  registry = await serve((path, request, response) => serveImage(image())(path, request, response));
  service = await startBuildService({ COPPICE_INSECURE_REGISTRIES: registry.host }, ['base', 'base-jail']);
  mkdirSync(join(context, 'app', 'deep'), { recursive: true });
  writeFileSync(join(context, 'app', 'main.sh'), '#!/bin/sh\necho from the app\n', { mode: 0o755 });
  writeFileSync(join(context, 'app', 'deep', 'data.txt'), 'deep\n');
  symlinkSync('deep/data.txt', join(context, 'app', 'link'));
});

after(async () => {
  const leaks = await service.stop();
  await registry[Symbol.asyncDispose]();
  rmSync(context, { recursive: true, force: true });
  assert.deepEqual(leaks.details, []);
});

/** An image of nothing but a busybox. */
let made: ReturnType<typeof makeImage> | undefined;
function image(): ReturnType<typeof makeImage> {
  const images = service.home.images;
  const kernel = readdirSync(images).find((name) => name.startsWith('kernel-'))!;
  made ??= makeImage(
    [
      [
        folder('bin'),
        file('bin/busybox', readFileSync(join(images, kernel, 'busybox')), { mode: 0o755 }),
        ...['sh', 'cat', 'ls', 'id', 'mkdir', 'touch', 'pwd', 'sleep', 'env'].map((name) =>
          symlink(`bin/${name}`, 'busybox'),
        ),
        folder('etc'),
        file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
      ],
    ],
    { config: { Env: ['PATH=/opt/bin:/bin', 'FROM_IMAGE=yes'] } },
  );
  return made;
}

const NO_TEMPLATE = /404: template '.*' not found/;

const sdk = () => ({ apiKey: service.apiKey, apiUrl: service.url, requestTimeoutMs: 60_000 });

async function build(template: Parameters<typeof Template.build>[0], name: string, more: object = {}) {
  const logs: LogEntry[] = [];
  const info = await Template.build(template, name, { ...sdk(), ...more, onBuildLogs: (entry) => logs.push(entry) });
  return { info, text: logs.map(({ message }) => message).join('\n') };
}

async function inside(template: string, work: (sandbox: Sandbox) => Promise<void>): Promise<void> {
  const sandbox = await Sandbox.create(template, { ...service.sdk, timeoutMs: 120_000 });
  try {
    await work(sandbox);
  } finally {
    await sandbox.kill();
  }
}

const said = async (sandbox: Sandbox, command: string, options: object = {}): Promise<string> =>
  (await sandbox.commands.run(command, options)).stdout.trim();

test('steps of a jail template: what they leave is there, for who they say, from where they say', async () => {
  const template = Template({ fileContextPath: context })
    .fromTemplate('base-jail')
    .setEnvs({ COLOUR: 'green', GREETING: 'hello $COLOUR' })
    .runCmd('echo "$GREETING" > /home/user/greeting')
    .copy('app', '/srv/app', { user: 'root', mode: 0o755 })
    .setWorkdir('/home/user/work')
    .runCmd(['pwd > where', 'id -un >> where', 'echo spoken in the build'])
    .runCmd('echo root was here > /opt/note', { user: 'root' });
  const { info, text } = await build(template, 'steps', { cpuCount: 1, memoryMB: 512 });
  assert.match(text, /^spoken in the build$/m);
  assert.equal(info.name, 'steps');
  await inside('steps', async (sandbox) => {
    assert.equal(await said(sandbox, 'cat /home/user/greeting'), 'hello green');
    assert.equal(await said(sandbox, 'pwd'), '/home/user/work');
    assert.equal(await said(sandbox, 'cat where'), '/home/user/work\nuser');
    assert.equal(
      await said(sandbox, '/srv/app/main.sh; cat /srv/app/link; stat -c %U:%a /srv/app/main.sh'),
      'from the app\ndeep\nroot:755',
    );
    assert.equal(await said(sandbox, 'cat /opt/note', { user: 'root' }), 'root was here');
    assert.equal(await said(sandbox, 'echo $COLOUR'), 'green');
    assert.equal(
      await said(sandbox, 'ls -a /.coppice-build 2>&1 | tail -1; cat /etc/machine-id | wc -c'),
      "ls: cannot access '/.coppice-build': No such file or directory\n33",
    );
  });
});

test('a template built upon another takes on what holds there, file capabilities and all', async () => {
  const capability = '0100000200200000000000000000000000000000';
  const set = `import os; os.setxattr("/usr/local/bin/able", "security.capability", bytes.fromhex("${capability}"))`;
  const upon = Template()
    .fromTemplate('steps')
    .runCmd('pwd > /home/user/second')
    .runCmd(`cp /bin/true /usr/local/bin/able && ln /usr/local/bin/able /usr/local/bin/same && python3 -c '${set}'`, {
      user: 'root',
    })
    .runCmd('rm /etc/motd /usr/bin/wget; mkdir -p /usr/share/new; mv /usr/share/nano /usr/share/moved', {
      user: 'root',
    })
    .setUser('root');
  await build(upon, 'upon', { cpuCount: 1, memoryMB: 512 });
  const read = `import os; print(os.getxattr("/usr/local/bin/same", "security.capability").hex())`;
  await inside('upon', async (sandbox) => {
    assert.equal(await said(sandbox, 'cat /home/user/second /home/user/greeting'), '/home/user/work\nhello green');
    assert.equal(await said(sandbox, 'id -un; echo $COLOUR'), 'root\ngreen');
    assert.equal(await said(sandbox, `python3 -c '${read}'`), capability);
    assert.equal(await said(sandbox, 'ls /etc/motd /usr/bin/wget /usr/share/nano 2>/dev/null | wc -l'), '0');
    assert.notEqual(await said(sandbox, 'ls /usr/share/moved | wc -l'), '0');
    assert.equal(await said(sandbox, 'su user -c "sudo -n id -un"'), 'root');
  });
});

test('a step that fails is named, with the end of what it said', async () => {
  const failing = Template().fromTemplate('base-jail').runCmd('true').runCmd('echo why it fails >&2; exit 3');
  await assert.rejects(build(failing, 'failing'), (error: Error) => {
    assert.ok(error instanceof BuildError);
    assert.match(error.message, /failed to run command 'echo why it fails >&2; exit 3': exit status 3\nwhy it fails/);
    assert.match(error.stack ?? '', /template-build\.test\.ts/);
    return true;
  });
  await assert.rejects(
    build(Template().fromTemplate('base-jail').runCmd('whoami', { user: 'root123' }), 'failing'),
    /failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'/,
  );
  await assert.rejects(
    build(Template().fromTemplate('there-is-none'), 'failing'),
    /template 'there-is-none' not found/,
  );
  await assert.rejects(
    build(Template().fromImage(`${registry.host}/test/nothing`), 'failing'),
    /image '.*nothing:latest' not found/,
  );
  await assert.rejects(Sandbox.create('failing', service.sdk), NO_TEMPLATE);
  assert.deepEqual((await service.leaks()).details, []);
});

test('what a step gave is used again, unless it is not to be', async () => {
  const steps = () => Template().fromTemplate('base-jail').runCmd('cat /proc/sys/kernel/random/uuid > /home/user/id');
  const read = async (name: string): Promise<string> => {
    let id = '';
    await inside(name, async (sandbox) => {
      id = await said(sandbox, 'cat /home/user/id');
    });
    return id;
  };
  await build(steps(), 'cached');
  const first = await read('cached');
  const { text } = await build(steps().runCmd('echo more'), 'cached-more');
  assert.match(text, /^CACHED RUN cat \/proc/m);
  assert.match(text, /^more$/m);
  assert.equal(await read('cached-more'), first);
  await build(steps(), 'cached', { skipCache: true });
  assert.notEqual(await read('cached'), first);
});

test('sandboxes of a build go on when a newer one takes its place', async () => {
  const of = (text: string) => Template().fromTemplate('base-jail').runCmd(`echo ${text} > /home/user/text`);
  await build(of('old'), 'replaced');
  await inside('replaced', async (old) => {
    await build(of('new'), 'replaced');
    await inside('replaced', async (sandbox) => assert.equal(await said(sandbox, 'cat text'), 'new'));
    assert.equal(await said(old, 'cat text'), 'old');
    await old.pause();
    const again = await Sandbox.connect(old.sandboxId, service.sdk);
    assert.equal(await said(again, 'cat text'), 'old');
  });
});

test('a start command runs in every jail of its template, and a failing one fails the build', async () => {
  const served = Template()
    .fromTemplate('base-jail')
    .setWorkdir('/home/user/site')
    .runCmd('echo served > index.html')
    .setStartCmd('python3 -m http.server 8000', waitForPort(8000));
  await build(served, 'served');
  await inside('served', async (sandbox) => {
    assert.equal(await said(sandbox, 'curl -s http://127.0.0.1:8000/'), 'served');
    const answer = await fetch(`${service.url}/sandbox/${sandbox.sandboxId}/8000/`);
    assert.equal(await answer.text(), 'served\n');
  });
  const broken = Template().fromTemplate('base-jail').setStartCmd('echo cannot start; exit 4', 'false');
  await assert.rejects(build(broken, 'broken'), /the start command failed: exit status 4/);
});

test('a node that is killed in the middle of a build goes on with it, and leaves nothing behind', async () => {
  const template = Template()
    .fromTemplate('base-jail')
    .runCmd('sleep 2.5; cat /proc/sys/kernel/random/uuid | tee /home/user/id')
    .runCmd('echo at work; sleep 4');
  const { templateId, buildId } = await Template.buildInBackground(template, 'killed', sdk());
  const status = () =>
    Template.getBuildStatus({ templateId, buildId }, sdk()).catch(() => ({ status: 'away', logEntries: [] }));
  await until(
    'the second step is at work',
    async () => (await status()).logEntries.some(({ message }) => message === 'at work'),
    60_000,
  );
  process.kill(service.nodePid(), 'SIGKILL');
  await until('it is ready', async () => (await status()).status === 'ready', 120_000);
  const messages = (await status()).logEntries.map(({ message }) => message);
  assert.ok(messages.includes('The node was restarted; the build begins again.'));
  assert.ok(messages.some((message) => message.startsWith('CACHED RUN sleep 2.5')));
  await inside('killed', async (sandbox) => {
    assert.ok(messages.includes(await said(sandbox, 'cat id')));
  });
  assert.deepEqual((await service.leaks()).details, []);
});

test('tags, aliases, publication and deletion, as the SDK has them', async () => {
  const of = (text: string) => Template().fromTemplate('base-jail').runCmd(`echo ${text} > /home/user/text`);
  const text = async (name: string): Promise<string> => {
    let found = '';
    await inside(name, async (sandbox) => {
      found = await said(sandbox, 'cat text');
    });
    return found;
  };
  const { info } = await build(of('one'), 'Tagged:v1');
  assert.deepEqual(info.tags, ['v1']);
  await build(of('two'), 'tagged', { tags: ['v2', 'latest'] });
  assert.equal(await text('tagged:v1'), 'one');
  assert.equal(await text('tagged:latest'), 'two');
  await assert.rejects(Sandbox.create('tagged', service.sdk), NO_TEMPLATE);
  const assigned = await Template.assignTags('tagged:v1', ['default', 'stable'], sdk());
  assert.equal(assigned.buildId, info.buildId);
  assert.equal(await text('tagged'), 'one');
  assert.deepEqual((await Template.getTags('tagged', sdk())).map(({ tag }) => tag).sort(), [
    'default',
    'latest',
    'stable',
    'v1',
    'v2',
  ]);
  await Template.removeTags('tagged', ['v1', 'stable'], sdk());
  await assert.rejects(Sandbox.create('tagged:v1', service.sdk), NO_TEMPLATE);
  await assert.rejects(Template.removeTags('tagged', 'default', sdk()), /default/);
  assert.equal(await Template.exists('tagged', sdk()), true);
  assert.equal(await Template.exists('not-tagged', sdk()), false);

  const headers = { 'X-API-Key': service.apiKey, 'content-type': 'application/json' };
  const call = (method: string, path: string, body?: object): Promise<Response> =>
    fetch(`${service.url}${path}`, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) });
  const published = await call('PATCH', '/v2/templates/tagged', { public: true });
  assert.deepEqual(await published.json(), { names: ['tagged'] });
  const listed = (await (await call('GET', '/templates')).json()) as { templateID: string; public: boolean }[];
  assert.equal(listed.find((one) => one.templateID === info.templateId)?.public, true);
  assert.equal((await call('DELETE', '/templates/base-jail')).status >= 400, true);
  assert.equal((await call('DELETE', '/templates/tagged')).status, 204);
  await assert.rejects(Sandbox.create('tagged', service.sdk), NO_TEMPLATE);
  assert.equal(await Template.exists('tagged', sdk()), false);
});

test('from an archive that the operator has imported, by its name; without it the build says what to do', async () => {
  const archive = join(context, 'image.tar');
  writeFileSync(archive, tar(layoutFiles([{ image: image() }])));
  const { images } = service.home;
  const template = Template().fromImage('localhost/tool:1').runCmd('echo from $FROM_IMAGE > /home/user/note');
  await assert.rejects(build(template, 'from-archive'), /coppice image import/);
  await importImage(images, { file: archive, name: 'tool:1' });
  try {
    await build(template, 'from-archive');
  } finally {
    await removeImported(images, 'tool:1');
  }
  await inside('from-archive', async (sandbox) => assert.equal(await said(sandbox, 'cat note'), 'from yes'));
});

test('a microVM of an image without bash, with its own program in the golden checkpoint, by the older SDK', async () => {
  const template = OlderTemplate()
    .fromImage(`${registry.host}/test/image`)
    .runCmd('echo built as $(id -un) with $FROM_IMAGE > /home/user/note')
    .setStartCmd('echo $$ > /tmp/started; while :; do sleep 1; done', '[ -f /tmp/started ]');
  const logs: string[] = [];
  await OlderTemplate.build(template, {
    alias: 'from-image',
    cpuCount: 1,
    memoryMB: 256,
    ...sdk(),
    onBuildLogs: (entry) => logs.push(entry.message),
  });
  await inside('from-image', async (sandbox) => {
    assert.equal(await said(sandbox, 'cat note'), 'built as user with yes');
    assert.equal(await said(sandbox, 'kill -0 $(cat /tmp/started) && echo lives'), 'lives');
    assert.equal(await said(sandbox, 'echo $FROM_IMAGE'), 'yes');
  });
});
