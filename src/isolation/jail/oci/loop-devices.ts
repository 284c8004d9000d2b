/** The host's loop devices and the files behind them, as the kernel names them. */
import { readdirSync, readFileSync } from 'node:fs';

export interface LoopDevice {
  /** e.g. `loop3`. */
  readonly name: string;
  /** Path of the file when it was attached; ` (deleted)` follows when it has lost that name. */
  readonly file: string;
}

/** Those that have a file now. */
export function loopDevices(): readonly LoopDevice[] {
  return readdirSync('/sys/block').flatMap((name) => {
    if (!name.startsWith('loop')) return [];
    try {
      return [{ name, file: readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim() }];
    } catch {
      return [];
    }
  });
}
