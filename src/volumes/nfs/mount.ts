/** The MOUNT protocol, version 3 (RFC 1813, appendix I): the handle of a volume's root, by the volume's id. */
import { type Exports, rootHandle } from './exports.ts';
import type { Program } from './rpc.ts';
import type { Syscalls } from './syscalls.ts';

export const MOUNT_PROGRAM = 100_005;
export const MOUNT_VERSION = 3;

const MAX_PATH = 1024;
const OK = 0;
const NO_ENTRY = 2;
const AUTH_SYS = 1;

export function createMountProgram(exports: Exports, syscalls: Pick<Syscalls, 'handleOf'>): Program {
  return ({ procedure, args }, reply) => {
    switch (procedure) {
      case 0:
        return true;
      case 1: {
        const volumeID = args.opaque(MAX_PATH).toString().replace(/^\//, '');
        const root = exports.root(volumeID);
        if (root === undefined) reply.uint(NO_ENTRY);
        else {
          const handle = rootHandle(volumeID, syscalls.handleOf(root));
          reply.uint(OK).opaque(handle).uint(1).uint(AUTH_SYS);
        }
        return true;
      }
      // Whoever has mounted one is not noted, so that there is nothing to forget.
      case 3:
        args.opaque(MAX_PATH);
        return true;
      case 4:
        return true;
      default:
        return false;
    }
  };
}
