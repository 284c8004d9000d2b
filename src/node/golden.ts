/** The golden checkpoint of a template: first boot, warm-up, the template's own program, capture. */
import { rm } from 'node:fs/promises';
import type { AgentClient } from '../channel/agent.ts';
import { connectAgent } from '../channel/client.ts';
import type { Checkpoint, IsolationBackend, Machine, MachineImage, MachineSpec } from '../isolation/backend.ts';
import type { Log } from '../telemetry/log.ts';
import { becomeNobody, type WarmUpSubject, warmUp } from './warm-up.ts';

export interface GoldenOptions {
  readonly signal: AbortSignal;
  readonly log: Log;
  readonly onStage: (stage: string) => void;
  /** Before the warm-up: what the disk is still to be given. */
  readonly prepare?: (agent: AgentClient, signal: AbortSignal) => Promise<void>;
  /** After it: what is to run in every clone. */
  readonly start?: (agent: AgentClient, signal: AbortSignal) => Promise<void>;
}

/** From the first byte that the kernel runs to an agent that answers, at most; a slow host's probe lengthens it. */
const BOOT_DEADLINE_MS = 120_000;

/** Of a backend without memory checkpoints nothing is booted. The folder of `spec` is there, and gone afterwards. */
export async function captureGolden(
  backend: IsolationBackend,
  image: MachineImage,
  spec: MachineSpec,
  out: string,
  subject: WarmUpSubject,
  { signal, log, onStage, prepare, start }: GoldenOptions,
): Promise<Checkpoint> {
  let agent: AgentClient | undefined;
  try {
    return await backend.makeGolden(
      image,
      spec,
      out,
      async (machine, bootSignal) => {
        const both = AbortSignal.any([signal, bootSignal]);
        // The session stays open through the capture: a clone then finds its port as it was, host connected.
        agent = await firstSession(machine, log, both);
        await prepare?.(agent, both);
        onStage('warming it up');
        await warmUp(agent, subject, log, both);
        if (start) {
          await start(agent, both);
          await agent.quiesce(both);
          await becomeNobody(agent, subject.templateID, both);
        }
        onStage('capturing');
      },
      { signal, onProgress: onStage },
    );
  } finally {
    agent?.close();
    await rm(spec.folder, { recursive: true, force: true });
  }
}

async function firstSession(machine: Machine, log: Log, signal: AbortSignal): Promise<AgentClient> {
  const stream = await machine.openChannel(signal);
  return connectAgent(stream, { log, signal, deadlineMs: BOOT_DEADLINE_MS });
}
