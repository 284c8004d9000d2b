/**
 * What runs in a template between its boot and its golden checkpoint. A clone inherits what this has loaded, compiled and
 * cached; whatever a clone does for the first time costs it dearly, most of all under emulation, where code that is new
 * must be translated first. So every operation that a clone will be asked for is done here, often enough that the guest's
 * runtime has compiled it. Nothing that a user could see may stay: no file, no history, no seeded generator.
 */
import { randomInt, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentClient, AgentError } from '../channel/agent.ts';
import type { Identity } from '../channel/protocol.ts';
import { CoppiceError } from '../contract/errors.ts';
import { prestartInterpreter } from '../envd/interpreter/index.ts';
import type { Log } from '../telemetry/log.ts';
import { newEntropy, newMachineID, newSandboxID } from './identifiers.ts';
import type { Runtime } from './runtime.ts';

/** Rounds of what lies on the path of every create; the guest's runtime compiles a function after some dozens of calls. */
const IDENTITY_ROUNDS = 60;
const ROUNDS_AFTER_COLLECTION = 20;
const SPAWN_ROUNDS = 15;
const FILE_ROUNDS = 20;
const CAPTURE_ROUNDS = 10;
const HOOKS_MS = 2_000;
const SYNC_MS = 30_000;

/** As long as a sandbox's id. */
const NAME = 'coppice-golden-master';
/** What the flush leaves behind (journal, write-back, statistics) has run by then, and no clone runs it. */
const SETTLE_MS = 2_000;

const COMMAND = 'echo warm; ls -l /home/user >/dev/null; id >/dev/null; cat /etc/hostname >/dev/null; true | cat';
const SCRATCH = '/tmp/.coppice-warm-up';
/** For root filesystems that have no shell. */
const BUSYBOX = '/run/coppice/drive/bin/busybox';
/** A port that nothing listens on. */
const CLOSED_PORT = 1;
/** Documentation addresses (RFC 5737): a clone's own replace them before it is anybody's. */
const NETWORK = { address: '192.0.2.2', prefix: 32, gateway: '169.254.1.1' } as const;

/** What is known of the template that is warmed. */
export interface WarmUpSubject {
  readonly templateID: string;
  readonly languages: readonly string[];
  readonly runtime: Runtime;
}

export async function warmUp(
  agent: AgentClient,
  { templateID, languages, runtime }: WarmUpSubject,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  for (const language of languages) await prestartInterpreter(agent, language, { log, signal });
  for (let round = 0; round < SPAWN_ROUNDS; round++) await runToEnd(agent, COMMAND, runtime, signal);
  for (let round = 0; round < FILE_ROUNDS; round++) await touchFiles(agent);
  await agent.remove(SCRATCH);
  await agent.dial(CLOSED_PORT, signal).then(
    (socket) => socket.destroy(),
    (error: unknown) => {
      if (!(error instanceof AgentError)) throw error;
    },
  );
  await agent.metrics(signal);
  await agent.processes({ services: true });
  for (let round = 0; round < IDENTITY_ROUNDS; round++) await becomeAndClaim(agent, templateID, signal);
  for (let round = 0; round < CAPTURE_ROUNDS; round++) await captureAndRestore(agent, templateID, signal);
  await agent.quiesce(signal);
  await sleep(SETTLE_MS, undefined, { signal });
  // Again, for the collection of garbage has also forgotten what was known of objects that were garbage.
  for (let round = 0; round < ROUNDS_AFTER_COLLECTION; round++) await becomeAndClaim(agent, templateID, signal);
  await becomeNobody(agent, templateID, signal);
}

/** The last before a golden checkpoint. */
export async function becomeNobody(agent: AgentClient, templateID: string, signal: AbortSignal): Promise<void> {
  await agent.identity({ ...somebody(templateID), hostname: NAME, network: NETWORK, env: {} }, signal);
  await agent.ping(signal);
  await sleep(SETTLE_MS, undefined, { signal });
}

/** What is asked of every clone, in the same words. */
async function becomeAndClaim(agent: AgentClient, templateID: string, signal: AbortSignal): Promise<void> {
  const identity = somebody(templateID);
  await agent.identity(identity, signal);
  await agent.identity({ clockMs: Date.now() }, signal);
  await agent.identity({ env: identity.env ?? {} }, signal);
  await agent.identity({ env: identity.env ?? {}, clockMs: Date.now() }, signal);
  await agent.ping(signal);
}

/** What is asked of a sandbox at a capture, and after a restore. */
async function captureAndRestore(agent: AgentClient, templateID: string, signal: AbortSignal): Promise<void> {
  await agent.hooks('before-pause', { timeoutMs: HOOKS_MS, signal });
  await agent.sync({ timeoutMs: SYNC_MS, signal });
  const { generation, entropy, network, env } = somebody(templateID);
  await agent.identity({ generation, entropy, network, env, cutConnections: true } as Identity, signal);
  await agent.identity({ clockMs: Date.now() }, signal);
  await agent.hooks('after-resume', { timeoutMs: HOOKS_MS, signal });
  await agent.hooks('hand-out', { timeoutMs: HOOKS_MS, signal });
}

/**
 * As at the growth of a clone, member by member: the guest's runtime knows requests by their shape. With names as long as a
 * clone's: what is as long as before is written over in place.
 */
function somebody(templateID: string): Identity {
  const sandboxID = newSandboxID();
  return {
    hostname: sandboxID,
    machineID: newMachineID(),
    generation: randomUUID(),
    entropy: newEntropy(),
    network: { ...NETWORK, address: `192.0.2.${randomInt(3, 255)}` },
    sandboxID,
    templateID,
    env: { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: sandboxID, E2B_TEMPLATE_ID: templateID },
  };
}

async function runToEnd(
  agent: AgentClient,
  command: string,
  { shell, user }: Runtime,
  signal: AbortSignal,
): Promise<void> {
  const how = shell ? { cmd: shell, args: ['-l', '-c', command] } : { cmd: BUSYBOX, args: ['sh', '-c', command] };
  const child = await agent.spawn({ ...how, user, stdin: false }, signal);
  for await (const output of child.output) {
    if (output.type === 'exit' && output.exitCode !== 0) {
      throw new CoppiceError('start_failed', `the template's warm-up failed with ${output.exitCode}: ${command}`);
    }
  }
}

/** The first command that an agent runs takes it longer than the next; a pool entry has that behind it. */
export async function rehearseCommand(agent: AgentClient, runtime: Runtime, signal: AbortSignal): Promise<void> {
  await runToEnd(agent, 'true', runtime, signal);
}

async function touchFiles(agent: AgentClient): Promise<void> {
  const file = `${SCRATCH}/file`;
  await agent.write(file, once(Buffer.from('warm')));
  await agent.stat(file);
  const { body } = await agent.read(file);
  for await (const _chunk of body);
  await agent.list(SCRATCH, 1);
  await agent.move(file, `${SCRATCH}/moved`);
  await agent.mkdir(`${SCRATCH}/folder`);
  const watch = await agent.watch(SCRATCH, { recursive: false, includeEntry: false });
  watch.close();
  await agent.remove(`${SCRATCH}/folder`);
}

async function* once(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}
