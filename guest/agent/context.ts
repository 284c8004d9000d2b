/** What every operation is given. */
import type { Powers } from './powers.ts';
import type { Users } from './users.ts';

export interface Context {
  readonly powers: Powers;
  readonly users: Users;
  /** The folders that identity writes into: `/etc`, `/run`, `/var/lib/dbus`. Hooks lie in the first. */
  readonly folders: { readonly etc: string; readonly run: string; readonly dbus: string };
  /** True: new processes are given the ordinary chance of being killed for want of memory, as the agent has none. */
  readonly resetOOMScore: boolean;
  /** A static shell for terminals; /bin/sh where it is absent. */
  readonly busybox: string;
  /** Set by identity, used by every new process. */
  env: Readonly<Record<string, string>>;
  generation: string | undefined;
  sandboxID: string | undefined;
  hostname: string | undefined;
}
