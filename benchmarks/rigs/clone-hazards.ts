/** What is known to go wrong when many machines are grown from one memory image. */
import type { Draw } from './clone-draw.ts';
import { distinct, type Hazard, judged, merged, unchecked } from './clone-verdicts.ts';

/** What the rig itself found out, beside what clones say. */
export interface Evidence {
  readonly draws: readonly Draw[];
  /** Of a sandbox that was captured, before and after its snapshots and forks. */
  readonly sources: readonly { readonly before: Draw; readonly after: Draw }[];
  /** Tokens of one sandbox offered to another. */
  readonly foreignTokens: { readonly offered: number; readonly accepted: readonly string[] };
  /** Files of checkpoints that secrets were looked for in. */
  readonly secrets: { readonly files: number; readonly found: readonly string[] };
  /** Checkpoints whose files were compared with their hashes once their clones had run. */
  readonly checkpoints: { readonly verified: number; readonly changed: readonly string[] };
  /** Sandboxes that were asked after their snapshot had been deleted. */
  readonly orphans: number;
}

/** A clock that is further off is a hazard: TLS and leases bear no more. */
const SKEW_MS = 50;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const KERNEL = ['process.urandom', 'process.secrets', 'process.uuid4', 'process.kernel_uuid'];
/** What clones have in common, and why it has to be so. */
const SHARED = {
  'process.mac': 'each machine is alone on its link, and its address there is part of the device state',
  'python.hash': 'the seed of string hashing, and the layout of memory, of a program that runs cannot be changed',
  'python.owners_rng':
    'a generator object that its owner made goes on where it was: hooks, /run/coppice/generation and COPPICE_GENERATION are there for programs that have one',
} as const;
const NOT_PRNG = ['process.boot_id', 'process.machine_id', 'process.hostname', 'process.generation', 'process.address'];

export function findHazards(evidence: Evidence): readonly Hazard[] {
  const { draws, sources, foreignTokens, secrets, checkpoints, orphans } = evidence;
  const clones = draws.filter(({ origin }) => origin !== 'source');
  const captured = clones.filter(({ origin }) => origin === 'snapshot' || origin === 'fork');
  const all = [...new Set(draws.flatMap(({ values }) => Object.keys(values)))];
  const userspace = all.filter(
    (name) => ![...KERNEL, ...NOT_PRNG, ...Object.keys(SHARED), 'service.token'].includes(name),
  );
  const skews = draws.filter(({ clockSkewMs }) => clockSkewMs > SKEW_MS);
  const complaints = clones.flatMap(({ sandboxID, facts }) => facts.complaints.map((line) => `${sandboxID}: ${line}`));
  return [
    distinct('kernel generator identical until it is reseeded', draws, KERNEL),
    distinct('generators of programs (Python, numpy, OpenSSL, Node) go on from one state', draws, userspace),
    judged(
      'wall clock stale',
      `time of the guest outside of the time that the question took by more than ${SKEW_MS} ms`,
      draws.length,
      skews.map(({ sandboxID, clockSkewMs }) => `${sandboxID}: ${clockSkewMs} ms`),
    ),
    judged('monotonic time jumps, lockups', 'what the kernel of each clone logged', clones.length, complaints),
    merged('address and host name twice', [
      distinct('', draws, ['process.hostname']),
      ...[...new Set(draws.map(({ wave }) => wave))].map((wave) =>
        distinct(
          '',
          draws.filter((one) => one.wave === wave),
          ['process.address'],
        ),
      ),
      judged(
        '',
        'the host name is the id of the sandbox, in /etc/hostname too; addresses among those that stood at once',
        draws.length,
        draws.flatMap(({ sandboxID, values, facts }) =>
          values['process.hostname'] === sandboxID && facts.hostnameFile === sandboxID
            ? []
            : [`${sandboxID}: host name`],
        ),
      ),
    ]),
    merged('machine id, boot id, host keys, seed files', [
      distinct('', draws, ['process.machine_id', 'process.boot_id']),
      judged(
        '',
        'no host keys of SSH, no seed of systemd',
        draws.length,
        draws.flatMap(({ sandboxID, facts }) => facts.keptSeeds.map((file) => `${sandboxID}: ${file}`)),
      ),
    ]),
    merged('secrets in a checkpoint; tokens that fit others', [
      distinct('', draws, ['service.token']),
      judged('', 'a token offered to another sandbox', foreignTokens.offered, foreignTokens.accepted),
      judged(
        '',
        "the service's key and seed, and its source's token, in files of checkpoints",
        secrets.files,
        secrets.found,
      ),
    ]),
    inherited(captured, sources),
    unchecked(
      'collisions of channel addresses',
      'there is no vsock: the channel is a socket in a folder of each machine',
    ),
    merged('the mark of a generation too coarse, or not told', [
      distinct('', draws, ['process.generation']),
      judged(
        '',
        'a UUID; file, variable and the variable of interpreters agree',
        draws.length,
        draws.flatMap((one) => faultsOfGeneration(one).map((fault) => `${one.sandboxID} (${one.origin}): ${fault}`)),
      ),
    ]),
    judged(
      'a capture changes its source',
      'names, address, generation and connections of the source, before and after',
      sources.length,
      sources.flatMap(({ before, after }) => faultsOfSource(before, after)),
    ),
    merged('disks run into each other', [
      judged(
        '',
        'a file that each clone writes is in none before',
        clones.length,
        clones.flatMap(({ sandboxID, facts, origin }) =>
          facts.ownBefore === null || isOfSource(origin, facts.ownBefore, sources)
            ? []
            : [`${sandboxID}: has what ${facts.ownBefore} wrote`],
        ),
      ),
      judged('', 'hashes of checkpoints once their clones had run', checkpoints.verified, checkpoints.changed),
    ]),
    judged('a checkpoint goes while its clones run', 'sandboxes asked after their snapshot was deleted', orphans, []),
    unchecked(
      'another VMM or CPU than the checkpoint was made on',
      'one host: manifests name both, and tests refuse others',
    ),
    unchecked('side channels of shared pages', 'by design: pages of kernel and template are shared, of sandboxes none'),
    unchecked('requests to devices under way', 'tests of the backend: the drives are drained at each capture'),
    unchecked('rules of the network missing, or flows outliving them', "the network's own tests"),
  ];
}

/** What clones have in common and must have in common, with how many values there are of it. */
export function sharedByDesign(draws: readonly Draw[]): readonly {
  readonly what: string;
  readonly why: string;
  readonly values: number;
  readonly of: number;
}[] {
  return Object.entries(SHARED).map(([what, why]) => {
    const found = draws.flatMap(({ values }) => values[what] ?? []);
    return { what, why, values: new Set(found).size, of: found.length };
  });
}

/** Ended in the clone at once, with an error and not by waiting; on the loopback, and in the source, they go on. */
function inherited(captured: readonly Draw[], sources: Evidence['sources']): Hazard {
  const hazard = 'connections of the generation before';
  const had = sources.filter(({ before }) => before.facts.outward === 'alive');
  if (had.length === 0) return unchecked(hazard, 'guests have no network on this host');
  const how =
    "a connection between two sockets by the sandbox's own address, captured as it stood: ended in each clone, and one on the loopback not";
  const faults = captured.flatMap(({ sandboxID, facts }) => [
    ...(facts.connections > 0 ? [`${sandboxID}: ${facts.connections} connections left`] : []),
    ...(facts.outward === 'alive' || facts.outward === null ? [`${sandboxID}: its program was told nothing`] : []),
    ...(facts.loopback === 'alive' ? [] : [`${sandboxID}: loopback ${facts.loopback}`]),
  ]);
  return judged(hazard, how, captured.length, faults);
}

function faultsOfGeneration({ values, facts, interpreterGeneration }: Draw): string[] {
  const generation = values['process.generation'] ?? '';
  return [
    ...(UUID.test(generation) ? [] : [`${generation} is no UUID`]),
    ...(facts.generationVariable === generation ? [] : [`the variable is ${facts.generationVariable}`]),
    ...(interpreterGeneration === undefined || interpreterGeneration === generation
      ? []
      : [`the interpreter's variable is ${interpreterGeneration}`]),
  ];
}

function faultsOfSource(before: Draw, after: Draw): string[] {
  const same = ['hostname', 'machine_id', 'boot_id', 'generation', 'address'].map((name) => `process.${name}`);
  return [
    ...same.filter((name) => before.values[name] !== after.values[name]).map((name) => `${before.sandboxID}: ${name}`),
    ...(['outward', 'loopback'] as const)
      .filter((name) => before.facts[name] !== after.facts[name])
      .map((name) => `${before.sandboxID}: its connection (${name}) is ${after.facts[name]}`),
  ];
}

/** What was there when it was captured is in its clones too. */
function isOfSource(origin: Draw['origin'], id: string, sources: Evidence['sources']): boolean {
  return (origin === 'snapshot' || origin === 'fork') && sources.some(({ before }) => before.sandboxID === id);
}
