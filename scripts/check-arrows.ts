/** Fails when a room imports from a room above it, or when host and guest mix. See ARCHITECTURE.md, "Rooms". */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

/** From the top down: a room may import itself and what stands below it. `contract` may be imported by all. */
const ROOMS = [
  'main.ts',
  'cli',
  'api',
  'edge',
  'control',
  'node',
  'envd',
  'channel',
  'checkpoint',
  'templates',
  'volumes',
  'isolation',
  'network',
  'store',
  'telemetry',
  'contract',
];
/** Rooms that stand side by side and know nothing of each other. */
const STRANGERS: readonly (readonly [string, string])[] = [
  ['isolation', 'network'],
  ['volumes', 'isolation'],
  ['api', 'edge'],
  ['api', 'node'],
  ['edge', 'node'],
  ['control', 'node'],
];
/** The guest's program ships alone: it may use the channel's wire format and nothing else of the host. */
const GUEST_MAY_IMPORT = ['src/channel/protocol.ts'];

/** `coppice bench` runs the rigs, which drive the whole of src/. */
const RIGS = /^benchmarks\/rigs\//;

const root = resolve(import.meta.dirname, '..');
const complaints: string[] = [];

function sources(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.ts$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
}

function imports(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/(?:from\s+|import\s*\(\s*|import\s+)'(\.[^']+)'/g)].map((match) =>
    relative(root, resolve(dirname(file), match[1]!)),
  );
}

const roomOf = (path: string): string => path.split('/')[1]!;

for (const file of sources(join(root, 'src'))) {
  const here = relative(root, file);
  const from = ROOMS.indexOf(roomOf(here));
  if (from < 0) complaints.push(`${here}: the room ${roomOf(here)} is not in the list`);
  for (const target of imports(file)) {
    if (RIGS.test(target) && roomOf(here) === 'cli') continue;
    if (!target.startsWith('src/')) {
      complaints.push(`${here} imports ${target}, which is outside src/`);
      continue;
    }
    const [mine, theirs] = [roomOf(here), roomOf(target)];
    if (ROOMS.indexOf(theirs) < from) complaints.push(`${here} imports upwards: ${target}`);
    if (STRANGERS.some(([a, b]) => (a === mine && b === theirs) || (b === mine && a === theirs))) {
      complaints.push(`${here} imports ${target}: ${mine} and ${theirs} know nothing of each other`);
    }
  }
}
for (const file of sources(join(root, 'guest'))) {
  for (const target of imports(file)) {
    if (!target.startsWith('guest/') && !GUEST_MAY_IMPORT.includes(target)) {
      complaints.push(`${relative(root, file)} imports ${target}: not shipped to the guest`);
    }
  }
}
if (complaints.length > 0) {
  console.error(complaints.join('\n'));
  process.exit(1);
}
console.log('arrows: all point down');
