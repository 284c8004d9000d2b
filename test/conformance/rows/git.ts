/** Git in a sandbox, against a bare repository beside it. */
import assert from 'node:assert/strict';
import type { Sandbox } from 'e2b';
import { say } from '../../behaviours/support/asks.ts';
import type { Row, RowContext } from '../row.ts';

const AUTHOR = { authorName: 'A', authorEmail: 'a@example.com' };
let repositories = 0;

/** A repository with one commit, `main`, and the bare one that is its origin. */
async function repository({ sandbox }: RowContext): Promise<{ at: string; origin: string; git: Sandbox['git'] }> {
  const base = `/home/user/git-${repositories++}`;
  const [at, origin] = [`${base}/work`, `${base}/origin.git`];
  await say(
    sandbox,
    `mkdir -p ${at} && git init -q --bare -b main ${origin} && cd ${at} && git init -q -b main && echo 1 > one && git add one && git -c user.name=A -c user.email=a@example.com commit -qm first && git remote add origin ${origin} && git push -q -u origin main`,
  );
  return { at, origin, git: sandbox.git };
}

export default [
  {
    method: 'git.init',
    proves: 'a repository with a first branch of that name',
    run: async ({ sandbox }) => {
      const at = `/home/user/git-${repositories++}`;
      await sandbox.git.init(at, { initialBranch: 'trunk' });
      assert.equal((await sandbox.git.status(at)).currentBranch, 'trunk');
    },
  },
  {
    method: 'git.clone',
    proves: 'with the history, into the folder named',
    run: async (context) => {
      const { at, origin, git } = await repository(context);
      await git.clone(origin, { path: `${at}-copy`, depth: 1 });
      assert.equal(await say(context.sandbox, `cat ${at}-copy/one`), '1');
    },
  },
  {
    method: 'git.remoteAdd',
    also: ['git.remoteGet'],
    proves: 'a remote, read back; one that there is not is undefined',
    run: async (context) => {
      const { at, origin, git } = await repository(context);
      await git.remoteAdd(at, 'other', origin, { fetch: true });
      assert.equal(await git.remoteGet(at, 'other'), origin);
      assert.equal(await git.remoteGet(at, 'none'), undefined);
    },
  },
  {
    method: 'git.status',
    proves: 'branch, upstream, and each file with what is the matter with it',
    run: async (context) => {
      const { at, git } = await repository(context);
      await say(context.sandbox, `cd ${at}; echo 2 > one; echo new > two`);
      const status = await git.status(at);
      assert.deepEqual([status.currentBranch, status.upstream, status.isClean], ['main', 'origin/main', false]);
      assert.deepEqual(
        status.fileStatus.map(({ name, status }) => `${name} ${status}`),
        ['one modified', 'two untracked'],
      );
    },
  },
  {
    method: 'git.createBranch',
    also: ['git.branches', 'git.checkoutBranch', 'git.deleteBranch'],
    proves: 'branches made, changed to, listed, deleted',
    run: async (context) => {
      const { at, git } = await repository(context);
      await git.createBranch(at, 'feature');
      assert.deepEqual(await git.branches(at), { branches: ['feature', 'main'], currentBranch: 'feature' });
      await git.checkoutBranch(at, 'main');
      await git.deleteBranch(at, 'feature', { force: true });
      assert.deepEqual(await git.branches(at), { branches: ['main'], currentBranch: 'main' });
    },
  },
  {
    method: 'git.add',
    also: ['git.commit'],
    proves: 'what is added is in the commit, by its author',
    run: async (context) => {
      const { at, git } = await repository(context);
      await say(context.sandbox, `cd ${at}; echo x > two; echo x > three`);
      await git.add(at, { files: ['two'] });
      await git.commit(at, 'second', AUTHOR);
      const last = await say(context.sandbox, `git -C ${at} show --format='%s %ae' --name-only`);
      assert.equal(last, 'second a@example.com\n\ntwo');
    },
  },
  {
    method: 'git.reset',
    proves: 'hard, to the commit before',
    run: async (context) => {
      const { at, git } = await repository(context);
      await git.commit(at, 'empty', { ...AUTHOR, allowEmpty: true });
      await say(context.sandbox, `echo changed > ${at}/one`);
      await git.reset(at, { mode: 'hard', target: 'HEAD~1' });
      assert.equal(await say(context.sandbox, `cd ${at}; cat one; git log --oneline | wc -l`), '1\n1');
    },
  },
  {
    method: 'git.restore',
    proves: 'a file as it was committed',
    run: async (context) => {
      const { at, git } = await repository(context);
      await say(context.sandbox, `echo changed > ${at}/one`);
      await git.restore(at, { paths: ['one'] });
      assert.equal(await say(context.sandbox, `cat ${at}/one`), '1');
    },
  },
  {
    method: 'git.push',
    also: ['git.pull'],
    proves: 'commits pushed from one clone and pulled by another',
    run: async (context) => {
      const { at, origin, git } = await repository(context);
      await git.clone(origin, { path: `${at}-other` });
      await git.commit(at, 'second', { ...AUTHOR, allowEmpty: true });
      await git.push(at);
      await git.pull(`${at}-other`);
      assert.equal(await say(context.sandbox, `git -C ${at}-other log --format=%s | head -1`), 'second');
    },
  },
  {
    method: 'git.setConfig',
    also: ['git.getConfig', 'git.configureUser'],
    proves: 'of one repository and of the user, read back',
    run: async (context) => {
      const { at, git } = await repository(context);
      const local = { scope: 'local', path: at } as const;
      await git.setConfig('pull.rebase', 'true', local);
      assert.equal(await git.getConfig('pull.rebase', local), 'true');
      await git.configureUser('Some One', 'one@example.com', local);
      assert.equal(await git.getConfig('user.email', local), 'one@example.com');
      assert.equal(await git.getConfig('no.such', local), undefined);
    },
  },
  {
    method: 'git.dangerouslyAuthenticate',
    proves: 'git itself finds what was stored',
    run: async ({ create }) => {
      const sandbox = await create();
      await sandbox.git.dangerouslyAuthenticate({ username: 'me', password: 'secret', host: 'example.com' });
      const ask = "printf 'protocol=https\\nhost=example.com\\n\\n' | git credential fill";
      assert.match(await say(sandbox, ask), /username=me\npassword=secret/);
    },
  },
] satisfies Row[];
