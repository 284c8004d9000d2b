/** Terminals without a native module: the master is read by Node's own tty stream, the slave is taken by a shell. */
import fs from 'node:fs';
import tty from 'node:tty';
import type { Context } from './context.ts';
import type { Account } from './users.ts';

export interface Terminal {
  readonly master: number;
  /** Path of the slave. */
  readonly slave: string;
  /** Both ways. Closing it closes the master. */
  readonly socket: tty.ReadStream;
}

export function openTerminal(
  context: Context,
  size: { readonly cols: number; readonly rows: number },
  account: Account,
): Terminal {
  const { master, slave } = context.powers.openPty(size);
  try {
    fs.chownSync(slave, account.uid, fs.statSync(slave).gid);
    return { master, slave, socket: new tty.ReadStream(master) };
  } catch (error) {
    fs.closeSync(master);
    throw error;
  }
}

/**
 * The child must have the slave as its controlling terminal. Node starts it as the leader of a new session; the first
 * terminal that such a process opens becomes its own, so a shell opens it and becomes the command.
 */
export function terminalCommand(
  context: Context,
  slave: string,
  command: string,
  args: readonly string[],
): readonly [string, readonly string[]] {
  const rest = ['-c', 'exec "$@" <>"$0" >&0 2>&0', slave, command, ...args];
  return fs.existsSync(context.busybox) ? [context.busybox, ['sh', ...rest]] : ['/bin/sh', rest];
}
