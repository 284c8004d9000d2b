/** The user namespaces of jails: one for each range of the host's users, made once and used by every jail that gets the range. */
import { spawn } from 'node:child_process';
import { openSync, readlinkSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { COMMAND_DEADLINE_MS, command } from './command.ts';
import { UIDS_EACH } from './config.ts';

/** Open descriptor of the namespace in which 0 to 65535 are the host's `uid` and up. */
export type UserNamespaces = (uid: number) => Promise<number>;

export function createUserNamespaces(): UserNamespaces {
  const made = new Map<number, Promise<number>>();
  return (uid) => {
    let found = made.get(uid);
    if (!found) {
      found = makeUserNamespace(uid).catch((error) => {
        made.delete(uid);
        throw error;
      });
      made.set(uid, found);
    }
    return found;
  };
}

/** No others in it, whatever the filter of system calls lets through. */
export async function forbidUserNamespaces(path: string): Promise<void> {
  const forbid = 'echo 0 > /proc/sys/user/max_user_namespaces';
  await command('nsenter', [`--user=${path}`, '-S', '0', '-G', '0', 'sh', '-c', forbid]);
}

/** Kept by its descriptor alone; the process that it began with ends. */
async function makeUserNamespace(uid: number): Promise<number> {
  const holder = spawn('unshare', ['--user', 'cat'], { stdio: ['pipe', 'ignore', 'pipe'] });
  const gone = new Promise<void>((resolve) => holder.once('close', () => resolve()));
  let said = '';
  // One that could not be started has no exit code: it says so here.
  holder.once('error', (error) => {
    said = error.message;
  });
  holder.stderr!.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  try {
    const path = `/proc/${holder.pid}/ns/user`;
    const own = readlinkSync('/proc/self/ns/user');
    const end = performance.now() + COMMAND_DEADLINE_MS;
    for (;;) {
      if (holder.exitCode !== null || performance.now() > end)
        throw new Error(`no user namespace can be made: ${said.trim()}`);
      if (readlinkSync(path) !== own) break;
      await sleep(1);
    }
    for (const map of ['uid_map', 'gid_map']) writeFileSync(`/proc/${holder.pid}/${map}`, `0 ${uid} ${UIDS_EACH}`);
    await forbidUserNamespaces(path);
    return openSync(path, 'r');
  } finally {
    holder.stdin!.end();
    await gone;
  }
}
