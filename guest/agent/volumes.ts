/** Volumes that are mounted in this machine, by NFS from its host. */
import fs from 'node:fs';
import path from 'node:path';
import type { VolumeMounts } from '../../src/channel/protocol.ts';
import { Failure } from './failure.ts';
import type { Powers } from './powers.ts';

const NFS = 'nfs';
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOATIME = 1024;
const MNT_FORCE = 1;
const MNT_DETACH = 2;

/**
 * `hard`: a program waits for a host that is away and goes on when it is back, and never gets half of a file. `nolock`: locks hold
 * within the machine. What another sandbox has changed is seen within a second, and at once by who opens a file or looks for it.
 */
const OPTIONS =
  'vers=3,proto=tcp,mountvers=3,mountproto=tcp,sec=sys,hard,nolock,noacl,timeo=100,retrans=2,actimeo=1,lookupcache=positive,rsize=262144,wsize=262144';

export interface Volumes {
  mount(volumes: VolumeMounts): Promise<void>;
  /** Lets all go, whatever their server does: whoever has a file open keeps it. Does not wait. */
  detach(): void;
}

export function createVolumes(powers: Pick<Powers, 'mount' | 'unmount'>): Volumes {
  let mounted: string[] = [];
  let detaching: Promise<unknown> = Promise.resolve();

  const detach = (): void => {
    const paths = mounted.reverse();
    mounted = [];
    // What a machine was captured with may be gone since.
    const ends = paths.map((target) => powers.unmount(target, MNT_DETACH | MNT_FORCE).catch(() => {}));
    detaching = Promise.all([detaching, ...ends]);
  };

  return {
    detach,
    async mount({ server, port, mounts }) {
      detach();
      await detaching;
      const options = `${OPTIONS},addr=${server},port=${port},mountaddr=${server},mountport=${port}`;
      for (const { volumeID, path: target } of mounts) {
        makeMountPoint(target);
        try {
          await powers.mount(`${server}:/${volumeID}`, target, NFS, MS_NOSUID | MS_NODEV | MS_NOATIME, options);
        } catch (error) {
          throw new Failure(
            'failed_precondition',
            `no volume can be mounted at ${target} (${(error as Error).message})`,
          );
        }
        mounted.push(target);
      }
    },
  };
}

/** As for a jail, whose root is not to be trusted: what is in the way is not followed. */
function makeMountPoint(target: string): void {
  for (const [index] of target.split('/').entries()) {
    const folder = path.join('/', ...target.split('/').slice(1, index + 1));
    const there = fs.lstatSync(folder, { throwIfNoEntry: false });
    if (there && !there.isDirectory())
      throw new Failure('invalid_argument', `no volume can be mounted at ${target}: ${folder} is in the way`);
    if (!there) fs.mkdirSync(folder, { mode: 0o755 });
  }
}
