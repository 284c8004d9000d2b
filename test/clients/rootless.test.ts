import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { chownSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { TEMPLATES_HOME } from '../helpers/service.ts';

/** Of nobody: no account has it. */
const UID = 64_990;
const checkout = join(import.meta.dirname, '..', '..');
const become = ['--reuid', String(UID), '--regid', String(UID), '--clear-groups', '--'];

function readableForOthers(): boolean {
  try {
    execFileSync('setpriv', [...become, 'test', '-r', join(checkout, 'src', 'main.ts')]);
    return true;
  } catch {
    return false;
  }
}

const skip = readableForOthers() ? false : 'the checkout lies where only root can read';

test('without root: microVMs run, the proof holds, and what is off is said', { skip }, async (t) => {
  const home = mkdtempSync(join(tmpdir(), 'cpr'));
  t.after(() => rmSync(home, { recursive: true, force: true }));
  // The images are shared; golden checkpoints are this user's own, since its VMMs must be able to open them.
  symlinkSync(join(TEMPLATES_HOME, 'images'), join(home, 'images'));
  chownSync(home, UID, UID);
  const { stdout } = await promisify(execFile)(
    'setpriv',
    [...become, join(checkout, 'bin', 'coppice'), 'start', '--once', '--json'],
    { env: { ...process.env, HOME: home, COPPICE_HOME: home, COPPICE_PORT: '0' }, maxBuffer: 64 * 2 ** 20 },
  );
  const panel = JSON.parse(stdout.trim().split('\n').at(-1)!);
  assert.equal(panel.ok, true, panel.reason);
  assert.deepEqual(panel.leaks.details, []);
  assert.ok(
    panel.notices.some((notice: string) => notice.includes('guests have no network')),
    'what is off is said',
  );
});
