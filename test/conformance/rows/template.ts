/** Templates: built upon one that is there, named, tagged; what the client alone makes of its words. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually, say } from '../../behaviours/support/asks.ts';
import type { Row, RowContext } from '../row.ts';

const SMALL = { cpuCount: 1, memoryMB: 512 };
/** Says what it was called with: no test has an internet to install from. */
const STAND_IN = '#!/bin/sh\necho "$(basename $0) $*" >> /var/tmp/installed\n';
const INSTALLERS = ['pip', 'npm', 'bun', 'apt-get'];

/** What the files are that a build copies. */
function files({ atEnd }: RowContext): string {
  const at = mkdtempSync(join(tmpdir(), 'coppice-context-'));
  atEnd(() => rmSync(at, { recursive: true }));
  mkdirSync(join(at, 'app'));
  writeFileSync(join(at, 'app', 'main'), 'of the app\n');
  writeFileSync(join(at, 'one'), 'one\n');
  for (const name of INSTALLERS) writeFileSync(join(at, name), STAND_IN);
  return at;
}

/** Builds something small under a name, once for a generation and its kind. */
const small = new Map<string, Promise<{ readonly name: string; readonly buildId: string }>>();
function built({ sdk, sdkOptions, kind, tag }: RowContext) {
  const name = `small-${tag}`;
  const template = sdk.Template().fromTemplate(kind.base).runCmd('echo small > /home/user/small');
  const made =
    small.get(name) ??
    sdk.Template.build(template, name, { ...sdkOptions, ...SMALL }).then(({ buildId }) => ({ name, buildId }));
  small.set(name, made);
  return made;
}

/** A build whose base is not to be had: its registry was asked for it, with these words of who asks. */
const asksRegistry = async (
  { sdk, sdkOptions, registry, tag }: RowContext,
  make: (image: string) => Parameters<RowContext['sdk']['Template']['build']>[0],
  authorization?: string,
): Promise<void> => {
  const repository = `${authorization ? 'private' : 'test'}/${tag}-${registry.asked.length}`;
  const building = sdk.Template.build(make(`${registry.host}/${repository}:some`), `none-${tag}`, sdkOptions);
  await assert.rejects(building, /not found/);
  const asked = registry.asked.filter(({ path }) => path === `/v2/${repository}/manifests/some`);
  assert.ok(asked.length > 0, 'the registry was asked');
  assert.equal(asked.at(-1)!.authorization, authorization);
};

const basic = (text: string): string => `Basic ${Buffer.from(text).toString('base64')}`;

/** Another word of the client for `fromImage`. */
const imageOf = (
  method: 'Debian' | 'Ubuntu' | 'Fedora' | 'Alpine' | 'Arch' | 'Python' | 'Node' | 'Bun' | 'Base',
  image: RegExp,
): Row => ({
  method: `template.from${method}Image`,
  proves: `is fromImage with ${image.source.replaceAll('\\', '').slice(1)}…, in the client alone`,
  run: async ({ sdk }) => {
    const made = JSON.parse(await sdk.Template.toJSON(sdk.Template()[`from${method}Image`](), false)) as object;
    assert.match((made as { fromImage: string }).fromImage, image);
  },
});

export default [
  {
    method: 'Template.build',
    also: [
      ...['fromTemplate', 'setEnvs', 'makeDir', 'copy', 'copyItems', 'rename', 'remove', 'makeSymlink', 'runCmd'],
      ...['setWorkdir', 'setUser', 'gitClone', 'skipCache', 'pipInstall', 'npmInstall', 'bunInstall', 'aptInstall'],
    ].map((step) => `template.${step}`),
    proves:
      'every step of one build is found in a sandbox of it (installers are stand-ins that say how they were called)',
    slow: true,
    run: async (context) => {
      const { sdk, sdkOptions, kind, tag, atEnd } = context;
      const user = { user: 'root' };
      const installers = INSTALLERS.map((name) => ({
        src: name,
        dest: `/usr/local/bin/${name}`,
        mode: 0o755,
        ...user,
      }));
      const template = sdk
        .Template({ fileContextPath: files(context) })
        .fromTemplate(kind.base)
        .setEnvs({ COLOUR: 'green' })
        .copyItems(installers)
        .makeDir('/srv/made', { mode: 0o750, ...user })
        .copy('app', '/srv/app', user)
        .copy('one', '/home/user/old')
        .rename('/home/user/old', '/home/user/new')
        .copy('one', '/home/user/gone')
        .remove('/home/user/gone')
        .makeSymlink('/home/user/new', '/home/user/link')
        .skipCache()
        .runCmd(
          'git init -q -b main /tmp/r && git -C /tmp/r -c user.name=A -c user.email=a@b commit -qm x --allow-empty',
        )
        .gitClone('/tmp/r', '/home/user/cloned')
        .runCmd('touch /var/tmp/installed && chmod 666 /var/tmp/installed', user)
        .pipInstall('numpy')
        .npmInstall(['left', 'right'], { g: true })
        .bunInstall('thing', { dev: true })
        .aptInstall(['tree'], { noInstallRecommends: true })
        .setWorkdir('/home/user/work')
        .runCmd('echo "$COLOUR $PWD $(id -un)" > said')
        .setUser('root');
      const name = `steps-${tag}`;
      const logs: string[] = [];
      const onBuildLogs = ({ message }: { message: string }): void => void logs.push(message);
      const info = await sdk.Template.build(template, name, { ...sdkOptions, ...SMALL, onBuildLogs });
      assert.deepEqual([info.name, info.tags], [name, ['default']]);
      assert.ok(
        logs.some((line) => line.includes('RUN git init')),
        logs.join('\n'),
      );
      const sandbox = await sdk.Sandbox.create(name, sdkOptions);
      atEnd(() => sandbox.kill());
      const look =
        'id -un; pwd; cat said; stat -c %a /srv/made; cat /srv/app/main /home/user/link; ls /home/user /home/user/cloned/.git/HEAD';
      assert.deepEqual((await say(sandbox, look)).split('\n'), [
        ...['root', '/home/user/work', 'green /home/user/work user', '750', 'of the app', 'one'],
        ...['/home/user/cloned/.git/HEAD', '', '/home/user:', 'cloned', 'link', 'new', 'work'],
      ]);
      assert.deepEqual((await say(sandbox, 'cat /var/tmp/installed')).split('\n'), [
        'pip install numpy',
        'npm install -g left right',
        'bun install --dev thing',
        'apt-get update',
        'apt-get install -y --no-install-recommends tree',
      ]);
    },
  },
  {
    method: 'Template.buildInBackground',
    also: ['Template.getBuildStatus', 'template.setStartCmd'],
    proves: 'is told as it goes until it is ready; its program runs in a sandbox of it',
    slow: true,
    run: async ({ sdk, sdkOptions, kind, tag, atEnd }) => {
      const template = sdk
        .Template()
        .fromTemplate(kind.base)
        .setStartCmd('python3 -m http.server 8000 --directory /etc', sdk.waitForPort(8000));
      const name = `started-${tag}`;
      const { templateId, buildId } = await sdk.Template.buildInBackground(template, name, { ...sdkOptions, ...SMALL });
      const last = await eventually(
        'it is ready',
        () => sdk.Template.getBuildStatus({ templateId, buildId }, sdkOptions),
        ({ status }) => status === 'ready' || status === 'error',
        240_000,
      );
      assert.equal(last.status, 'ready', JSON.stringify(last.reason));
      const sandbox = await sdk.Sandbox.create(name, sdkOptions);
      atEnd(() => sandbox.kill());
      assert.equal(await say(sandbox, 'curl -s http://127.0.0.1:8000/hostname'), sandbox.sandboxId);
    },
  },
  {
    method: 'template.setReadyCmd',
    proves: 'the build ends well when its command does',
    slow: true,
    run: async ({ sdk, sdkOptions, kind, tag }) => {
      const template = sdk.Template().fromTemplate(kind.base).runCmd('touch /home/user/ready');
      const ready = template.setReadyCmd(sdk.waitForFile('/home/user/ready'));
      const { buildId } = await sdk.Template.build(ready, `ready-${tag}`, { ...sdkOptions, ...SMALL });
      assert.match(buildId, /^[0-9a-f-]{36}$/);
    },
  },
  {
    method: 'Template.exists',
    also: ['Template.aliasExists'],
    proves: 'of one that is built, of one that is not',
    slow: true,
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const { name } = await built(context);
      for (const exists of ['exists', 'aliasExists'] as const) {
        assert.equal(await sdk.Template[exists](name, sdkOptions), true);
        assert.equal(await sdk.Template[exists](`not-${name}`, sdkOptions), false);
      }
    },
  },
  {
    method: 'Template.assignTags',
    also: ['Template.getTags', 'Template.removeTags'],
    proves: 'a sandbox is made by the tag, and no more when it is removed',
    slow: true,
    run: async (context) => {
      const { sdk, sdkOptions } = context;
      const { name, buildId } = await built(context);
      const assigned = await sdk.Template.assignTags(name, ['stable', 'v1'], sdkOptions);
      assert.equal(assigned.buildId, buildId);
      const tags = (await sdk.Template.getTags(name, sdkOptions)).map(({ tag }) => tag);
      assert.deepEqual(tags.sort(), ['default', 'stable', 'v1']);
      const sandbox = await sdk.Sandbox.create(`${name}:v1`, sdkOptions);
      assert.equal(await say(sandbox, 'cat small'), 'small');
      await sandbox.kill();
      await sdk.Template.removeTags(name, ['stable', 'v1'], sdkOptions);
      await assert.rejects(sdk.Sandbox.create(`${name}:v1`, sdkOptions), /404/);
    },
  },
  {
    method: 'template.fromImage',
    proves:
      'its registry is asked, as nobody and by name; what is not there is the build’s error (whole builds: test/long/template-build.test.ts)',
    run: async (context) => {
      const { sdk } = context;
      await asksRegistry(context, (image) => sdk.Template().fromImage(image));
      const who = { username: 'me', password: 'secret' };
      await asksRegistry(context, (image) => sdk.Template().fromImage(image, who), basic('me:secret'));
    },
  },
  {
    method: 'template.fromDockerfile',
    proves: 'the image of its FROM is asked for',
    run: (context) =>
      asksRegistry(context, (image) => context.sdk.Template().fromDockerfile(`FROM ${image}\nRUN true\nENV A=b\n`)),
  },
  {
    method: 'template.fromGCPRegistry',
    proves: 'its registry is asked with the account’s key',
    run: (context) => {
      const serviceAccountJSON = { project_id: 'p' };
      return asksRegistry(
        context,
        (image) => context.sdk.Template().fromGCPRegistry(image, { serviceAccountJSON }),
        basic(`_json_key:${JSON.stringify(serviceAccountJSON)}`),
      );
    },
  },
  {
    method: 'template.fromAWSRegistry',
    proves: 'is refused by name, with what to do in its place',
    run: async ({ sdk, sdkOptions, tag }) => {
      const who = { accessKeyId: 'a', secretAccessKey: 'b', region: 'c' };
      const template = sdk.Template().fromAWSRegistry('1.dkr.example/x', who);
      await assert.rejects(sdk.Template.build(template, `aws-${tag}`, sdkOptions), /type aws is not there yet.*AWS/);
    },
  },
  imageOf('Debian', /^debian:/),
  imageOf('Ubuntu', /^ubuntu:/),
  imageOf('Fedora', /^fedora:/),
  imageOf('Alpine', /^alpine:/),
  imageOf('Arch', /^archlinux:/),
  imageOf('Python', /^python:/),
  imageOf('Node', /^node:/),
  imageOf('Bun', /^oven\/bun:/),
  imageOf('Base', /^e2bdev\/base/),
  {
    method: 'Template.toJSON',
    also: ['Template.toDockerfile'],
    proves: 'the client’s own description of a template, without a server',
    run: async ({ sdk }) => {
      const template = sdk.Template().fromImage('debian').runCmd('true');
      assert.match(await sdk.Template.toJSON(template, false), /"fromImage": ?"debian"/);
      assert.match(sdk.Template.toDockerfile(template), /^FROM debian\nRUN true/);
    },
  },
] satisfies Row[];
