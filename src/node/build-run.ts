/** One step of a build, done in its builder. */
import { type AgentClient, AgentError } from '../channel/agent.ts';
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import { type GuestCommand, type PlannedStep, stepFailure } from '../templates/build-plan.ts';
import { type BuildStep, stepError } from '../templates/build-steps.ts';
import { throwIfAborted } from '../templates/run.ts';
import type { BuildFiles } from './build-files.ts';
import type { BuildLog } from './build-log.ts';
import { describeEnd, runCommand } from './guest-commands.ts';

export interface StepTools {
  readonly templateID: string;
  readonly files: BuildFiles;
  readonly log: BuildLog;
  readonly signal: AbortSignal;
}

/** Characters of its output that a failure quotes. */
const TAIL = 1_000;

/** Errors: CoppiceError of the step, in E2B's words and with the end of what was said. */
export async function runStep(agent: AgentClient, { step, actions }: PlannedStep, tools: StepTools): Promise<void> {
  const { templateID, files, signal } = tools;
  for (const action of actions) {
    try {
      if (action.kind === 'upload') {
        const body = files.read(templateID, action.filesHash);
        await agent.write(action.path, body, { user: 'root', signal });
      } else await runTold(agent, step, action, tools);
    } catch (error) {
      throwIfAborted(signal);
      if (isCoppiceError(error) && error.details.step !== undefined) throw error;
      if (error instanceof AgentError)
        throw stepError(
          step.name,
          stepFailure(step, `command failed: ${error.code}: ${error.message}`),
          'bad_request',
          error,
        );
      if (isCoppiceError(error, 'bad_request'))
        throw stepError(step.name, stepFailure(step, error.message), 'bad_request', error);
      throw error;
    }
  }
}

async function runTold(
  agent: AgentClient,
  step: BuildStep,
  { command, told }: { readonly command: GuestCommand; readonly told: boolean },
  { log, signal }: StepTools,
): Promise<void> {
  const output = log.output(step.name);
  const tail = new Tail();
  const end = await runCommand(agent, command, {
    signal,
    onOutput: (bytes, kind) => {
      if (told) output.write(bytes);
      if (!told || kind === 'stderr') tail.add(bytes);
    },
  });
  output.end();
  if (end.exitCode === 0) return;
  const said = tail.text();
  // What our own scripts say is the reason itself.
  const why = told || said === '' ? `${describeEnd(end)}${said === '' ? '' : `\n${said}`}` : said;
  throw stepError(step.name, stepFailure(step, why));
}

/** The last of what was said. */
class Tail {
  #bytes: Buffer = Buffer.alloc(0);

  add(bytes: Uint8Array): void {
    this.#bytes = Buffer.concat([this.#bytes, bytes]).subarray(-4 * TAIL);
  }

  text(): string {
    return this.#bytes.toString('utf8').trim().slice(-TAIL);
  }
}

/** A command of ours, whose output is for us. Fails when it does. */
export async function ask(agent: AgentClient, command: GuestCommand, signal: AbortSignal): Promise<string> {
  const said = new Tail();
  const end = await runCommand(agent, command, { signal, onOutput: (bytes) => said.add(bytes) });
  if (end.exitCode !== 0) throw new CoppiceError('internal', `a builder could not be settled: ${said.text()}`);
  return said.text();
}
