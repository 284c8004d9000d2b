/** A process that makes jails, three at once, until it is killed. Its argument: MakerData as JSON. Says when it begins. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { MachineImage } from '../../src/isolation/backend.ts';
import { createOciBackend } from '../../src/isolation/jail/oci/driver.ts';
import type { RuntimeName } from '../../src/isolation/jail/oci/runtime.ts';
import { silentLog } from '../../src/telemetry/log.ts';

export interface MakerData {
  readonly runtime: RuntimeName;
  readonly jails: string;
  readonly machines: string;
  /** Folder of the golden checkpoint. */
  readonly golden: string;
  readonly image: MachineImage;
  /** What their ids begin with. */
  readonly name: string;
  readonly firstUid: number;
  /** Whether it starts their agents too. */
  readonly agents: boolean;
}

const UIDS_EACH = 65_536;
const SHAPE = { cpuCount: 1, memoryMB: 256, diskSizeMB: 256 };
const {
  runtime,
  jails,
  machines,
  golden: folder,
  image,
  name,
  firstUid,
  agents,
} = JSON.parse(process.argv[2]!) as MakerData;
const uids = { first: firstUid, slots: 1_000 };
const backend = createOciBackend({ log: silentLog, folder: jails, uids, runtimes: [runtime] });
const golden = await backend.openCheckpoint(folder);
let next = 0;

async function makeForEver(): Promise<never> {
  for (;;) {
    const number = next++;
    const id = `${name}n${number}`;
    mkdirSync(join(machines, id));
    const names = { hostname: id, machineID: '0'.repeat(32) };
    const uid = firstUid + number * UIDS_EACH;
    const machine = await backend.clone(golden, image, { id, folder: join(machines, id), shape: SHAPE, names, uid });
    if (agents) (await machine.openChannel()).destroy();
  }
}

process.stdout.write('making\n');
await Promise.all([makeForEver(), makeForEver(), makeForEver()]);
