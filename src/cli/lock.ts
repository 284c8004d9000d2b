/** One service per home. The lock names its holder; a holder that died does not count. */
import { openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { CoppiceError } from '../contract/errors.ts';
import { readProcess } from '../isolation/process-table.ts';
import type { Home } from '../store/home.ts';

interface Holder {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat. */
  readonly startTime: string;
}

export function holdServiceLock(home: Home): { release(): void } {
  for (;;) {
    try {
      const fd = openSync(home.lockFile, 'wx', 0o644);
      const holder: Holder = { pid: process.pid, startTime: readProcess(process.pid)?.startTime ?? '' };
      writeSync(fd, JSON.stringify(holder));
      return { release: () => rmSync(home.lockFile, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = serviceHolder(home);
    if (holder) {
      throw new CoppiceError(
        'conflict',
        `Coppice already serves ${home.folder} (pid ${holder.pid}); stop it first, or set COPPICE_HOME`,
      );
    }
    rmSync(home.lockFile, { force: true });
  }
}

/** The living holder, if any. */
export function serviceHolder(home: Home): Holder | undefined {
  try {
    const holder = JSON.parse(readFileSync(home.lockFile, 'utf8')) as Holder;
    return readProcess(holder.pid)?.startTime === holder.startTime ? holder : undefined;
  } catch {
    return undefined;
  }
}
