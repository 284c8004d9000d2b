/** A small file system in place of a folder of a home, which may grow. */
import { execFileSync } from 'node:child_process';

export interface Room {
  readonly size: string;
  /** Files and folders that it has room for; default: many. */
  readonly files?: number;
}

export class SmallDisk {
  readonly #folder: string;

  /** The folder is there, and nothing is in it. */
  constructor(folder: string, room: Room) {
    this.#folder = folder;
    execFileSync('mount', ['-t', 'tmpfs', '-o', optionsOf(room), 'tmpfs', folder]);
  }

  /** What is there stays. */
  resize(room: Room): void {
    execFileSync('mount', ['-o', `remount,${optionsOf(room)}`, this.#folder]);
  }

  end(): void {
    execFileSync('umount', [this.#folder]);
  }
}

function optionsOf({ size, files = 10_000 }: Room): string {
  // One more for the folder itself.
  return `mode=0700,size=${size},nr_inodes=${files + 1}`;
}
