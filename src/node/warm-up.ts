/**
 * What runs in a template between its boot and its golden checkpoint. A clone inherits what this has loaded, compiled and
 * cached; whatever a clone does for the first time costs it dearly, most of all under emulation, where code that is new
 * must be translated first. So every operation that a clone will be asked for is done here, often enough that the guest's
 * runtime has compiled it. Nothing that a user could see may stay: no file, no history, no seeded generator.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { type AgentClient, AgentError } from '../channel/agent.ts';
import type { Identity } from '../channel/protocol.ts';
import { CoppiceError } from '../contract/errors.ts';
import { prestartInterpreter } from '../envd/interpreter/index.ts';
import type { Log } from '../telemetry/log.ts';
import type { TemplateDefinition } from '../templates/definitions.ts';

/** Rounds of what lies on the path of every create; the guest's runtime compiles a function after some dozens of calls. */
const IDENTITY_ROUNDS = 60;
const CLAIM_ROUNDS = 200;
const SPAWN_ROUNDS = 15;
const FILE_ROUNDS = 20;

const COMMAND = 'echo warm; ls -l /home/user >/dev/null; id >/dev/null; cat /etc/hostname >/dev/null; true | cat';
const SCRATCH = '/home/user/.coppice-warm-up';
/** A port that nothing listens on. */
const CLOSED_PORT = 1;
/** Documentation addresses (RFC 5737): a clone's own replace them before it is anybody's. */
const NETWORK = { address: '192.0.2.2', prefix: 32, gateway: '169.254.1.1' } as const;

export async function warmUp(
  agent: AgentClient,
  definition: TemplateDefinition,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  for (const language of definition.languages) await prestartInterpreter(agent, language, { log, signal });
  for (let round = 0; round < SPAWN_ROUNDS; round++) await runToEnd(agent, COMMAND, signal);
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
  for (let round = 0; round < IDENTITY_ROUNDS; round++) await agent.identity(somebody(), signal);
  for (let round = 0; round < CLAIM_ROUNDS; round++) {
    await agent.identity({ env: { ROUND: String(round) }, clockMs: Date.now() }, signal);
  }
  await agent.identity({ hostname: 'coppice', network: null, clockMs: Date.now(), env: {} }, signal);
  await agent.ping(signal);
  await agent.quiesce(signal);
}

/** Every member set, as at the growth of a clone. */
function somebody(): Identity {
  return {
    hostname: 'coppice',
    machineID: randomUUID().replaceAll('-', ''),
    generation: randomUUID(),
    clockMs: Date.now(),
    entropy: randomBytes(64).toString('base64'),
    network: NETWORK,
    sandboxID: 'coppice',
    templateID: 'coppice',
    env: {},
  };
}

async function runToEnd(agent: AgentClient, command: string, signal: AbortSignal): Promise<void> {
  const child = await agent.spawn({ cmd: '/bin/bash', args: ['-l', '-c', command], stdin: false }, signal);
  for await (const output of child.output) {
    if (output.type === 'exit' && output.exitCode !== 0) {
      throw new CoppiceError('start_failed', `the template's warm-up failed with ${output.exitCode}: ${command}`);
    }
  }
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
