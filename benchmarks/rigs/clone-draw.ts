/** Asks one sandbox for everything that must be its own. */
import { Sandbox } from '@e2b/code-interpreter';
import { z } from 'zod';
import { HOLD_CONNECTIONS, JAVASCRIPT_DRAW, OWNERS_RNG, PROCESS_DRAW, PYTHON_DRAW } from './clone-programs.ts';
import type { RigService } from './service.ts';

/** How a sandbox came to be. `source`: what snapshots and forks were made of. */
export type Origin = 'hot' | 'cold' | 'snapshot' | 'fork' | 'source';

export interface Draw {
  readonly sandboxID: string;
  readonly origin: Origin;
  /** Those of one wave stood at the same time. */
  readonly wave: string;
  /** By `<where>.<what>`; what a template does not have is not there. */
  readonly values: Readonly<Record<string, string>>;
  readonly facts: ProcessFacts;
  /** COPPICE_GENERATION of the pre-started interpreter; undefined: there is no interpreter. */
  readonly interpreterGeneration: string | null | undefined;
  /** By which the guest's clock is outside of the time that the question took, ms. */
  readonly clockSkewMs: number;
}

const facts = z.object({
  hostnameFile: z.string().nullable(),
  generationVariable: z.string().nullable(),
  keptSeeds: z.array(z.string()),
  ownBefore: z.string().nullable(),
  connections: z.number(),
  outward: z.string().nullable(),
  loopback: z.string().nullable(),
  complaints: z.array(z.string()),
});
export type ProcessFacts = z.infer<typeof facts>;

const values = z.record(z.string(), z.string().nullable());
const processDraw = z.object({ values, facts });
const pythonDraw = z.object({ values, facts: z.object({ generationVariable: z.string().nullable() }) });

/** Emulated guests that all start Python and Node at once are slow. */
const PATIENT = { timeoutMs: 300_000, requestTimeoutMs: 300_000 };
const LIFE_MS = 3_600_000;

export interface DrawOptions {
  readonly origin: Origin;
  readonly wave: string;
  readonly token: string | undefined;
  /** The template has an interpreter, started before its checkpoint. */
  readonly python: boolean;
  /** Its owner had started one of these too. */
  readonly javascript: boolean;
}

export async function draw(service: RigService, sandboxID: string, options: DrawOptions): Promise<Draw> {
  const { origin, wave, token, python, javascript } = options;
  const sandbox = await connect(service, sandboxID);
  const clockSkewMs = await skewOf(sandbox);
  // Before anything else runs in it: the first that a clone draws is what its siblings could draw too.
  const inPython = python ? pythonDraw.parse(JSON.parse(await runCode(sandbox, PYTHON_DRAW, 'python'))) : undefined;
  const inJavaScript = javascript
    ? values.parse(JSON.parse(await runCode(sandbox, JAVASCRIPT_DRAW, 'javascript')))
    : undefined;
  const { stdout } = await sandbox.commands.run(`python3 - <<'PROGRAM'\n${PROCESS_DRAW}\nPROGRAM`, {
    ...PATIENT,
    user: 'root',
  });
  const inProcess = processDraw.parse(JSON.parse(stdout));
  return {
    sandboxID,
    origin,
    wave,
    values: {
      ...(token === undefined ? {} : { 'service.token': token }),
      ...named('process', inProcess.values),
      ...named('python', inPython?.values ?? {}),
      ...named('javascript', inJavaScript ?? {}),
    },
    facts: inProcess.facts,
    interpreterGeneration: inPython?.facts.generationVariable,
    clockSkewMs,
  };
}

/** Makes a sandbox what is worth capturing: generators that have been used, connections that stand. */
export async function prepareSource(
  service: RigService,
  sandboxID: string,
  { python, javascript }: Pick<DrawOptions, 'python' | 'javascript'>,
): Promise<void> {
  const sandbox = await connect(service, sandboxID);
  const hold = `setsid python3 -c '${HOLD_CONNECTIONS}' >/tmp/held 2>&1 </dev/null &
for turn in $(seq 600); do grep -q held /tmp/held && exit 0; sleep 0.1; done; exit 1`;
  await sandbox.commands.run(hold, PATIENT);
  if (python) {
    await runCode(sandbox, OWNERS_RNG, 'python');
    await runCode(sandbox, PYTHON_DRAW, 'python');
  }
  if (javascript) await runCode(sandbox, JAVASCRIPT_DRAW, 'javascript');
}

function connect({ sdk }: RigService, sandboxID: string): Promise<Sandbox> {
  return Sandbox.connect(sandboxID, { ...sdk, timeoutMs: LIFE_MS, requestTimeoutMs: PATIENT.requestTimeoutMs });
}

async function runCode(sandbox: Sandbox, code: string, language: 'python' | 'javascript'): Promise<string> {
  const { error, logs } = await sandbox.runCode(code, { ...PATIENT, language });
  if (error) throw new Error(`${language} in ${sandbox.sandboxId}: ${error.name}: ${error.value}`);
  return logs.stdout.join('');
}

async function skewOf(sandbox: Sandbox): Promise<number> {
  const before = Date.now();
  const { stdout } = await sandbox.commands.run('date +%s%3N', PATIENT);
  const after = Date.now();
  const there = Number(stdout);
  return Math.max(before - there, there - after, 0);
}

function named(where: string, found: Readonly<Record<string, string | null>>): Record<string, string> {
  const there = Object.entries(found).filter((entry): entry is [string, string] => entry[1] !== null);
  return Object.fromEntries(there.map(([name, value]) => [`${where}.${name}`, value]));
}
