/**
 * JavaScript and TypeScript as a runtime of the code interpreter (coppice_bridge/runtime.py).
 *
 *     node main.js [--typescript] [--node=PATH]      PATH: what user code has as process.execPath
 */
import { setTimeout as pause } from 'node:timers/promises';
import { types } from 'node:util';
import { type Event, endCutEvent, onRequest, payload, tell } from './channel.ts';
import { bundleOf } from './display.ts';
import { evaluate, type Outcome, terminate } from './evaluate.ts';
import { failureOf, INTERRUPTED, isOfInterrupt } from './failure.ts';
import { ProcessExit, setGlobals } from './globals.ts';
import { replaceMathRandom, reseed } from './random.ts';
import { asScript, stripTypes } from './source.ts';
import { replaceStreams } from './streams.ts';
import { hasEnded, noteEnd, startWatchdog, undisturbed } from './watchdog.ts';

const typescript = process.argv.includes('--typescript');
const nodeForChildren = process.argv.find((arg) => arg.startsWith('--node='))?.slice('--node='.length);
/** ms between the death of a child by an interrupt and the latest moment in which the interrupt reaches this program. */
const INTERRUPT_ON_ITS_WAY = 1_000;

type Variables = readonly (readonly [string, string | undefined])[];

let cells = 0;
/** The number of the run that goes on. */
let running: number | undefined;
/** What the variables of that run were before it. */
let before: Variables = [];

/** Undisturbed. */
function run(number: number, [count = '0', ...strings]: string[]): void {
  // Interrupted before this request was read.
  if (hasEnded(number)) return;
  const variables = strings.slice(0, Number(count)).map(pairOf);
  running = number;
  before = variables.map(([name]) => [name, process.env[name]] as const);
  assign(variables);
  cells += 1;
  startWatchdog(interrupt, terminate);
  const settle = (outcome: Outcome): void => void conclude(number, outcome);
  try {
    const code = strings.slice(variables.length).join('\0');
    const script = asScript(typescript ? stripTypes(code) : code);
    evaluate(`${script}\n//# sourceURL=cell-${cells}.js`, settle);
  } catch (error) {
    settle({ kind: 'thrown', value: error });
  }
}

/** Asks what came out what it looks like, which may be user code, and ends the run. */
async function conclude(number: number, outcome: Outcome): Promise<void> {
  let event: Event | undefined;
  try {
    if (outcome.kind === 'thrown') throw outcome.value;
    // Of a promise, what becomes of it.
    const last: unknown = types.isPromise(outcome.value) ? await outcome.value : outcome.value;
    if (last !== undefined) event = { type: 'result', main: true, data: await bundleOf(last) };
  } catch (error) {
    if (isOfInterrupt(error)) await pause(INTERRUPT_ON_ITS_WAY);
    event = failureOf(error);
  }
  end(number, event);
}

function interrupt(number: number): void {
  if (hasEnded(number)) return;
  undisturbed(() => {
    endCutEvent();
    end(number, INTERRUPTED);
  });
}

/** The first to end a run is heard. */
function end(number: number, event: Event | undefined): void {
  if (hasEnded(number)) return;
  undisturbed(() => {
    noteEnd(number);
    running = undefined;
    assign(before);
    before = [];
    if (event !== undefined) tell(event);
    tell({ type: 'done', run: String(number) });
  });
}

function pairOf(pair: string): readonly [string, string | undefined] {
  const end = pair.indexOf('=');
  return end === -1 ? [pair, undefined] : [pair.slice(0, end), pair.slice(end + 1)];
}

function assign(variables: Variables): void {
  for (const [name, value] of variables) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}

/** Undisturbed. */
function serve(request: string): void {
  const strings = payload();
  const [kind, number] = request.split(' ');
  if (kind === 'run') {
    run(Number(number), strings);
    return;
  }
  try {
    if (kind === 'env') assign(strings.map(pairOf));
    else if (kind === 'reseed') reseed(Buffer.from(strings[1]!, 'hex'));
  } catch (error) {
    const failure = failureOf(error);
    if (failure !== undefined) tell(failure);
  }
  tell({ type: 'done' });
}

replaceStreams();
replaceMathRandom();
setGlobals(nodeForChildren);
// It is meant for children; what this program makes of it comes by way of the watchdog.
process.on('SIGINT', () => {});
// Nothing that user code throws ends this process. Between runs there is nobody to tell.
for (const event of ['uncaughtException', 'unhandledRejection'] as const)
  process.on(event, (thrown: unknown) => {
    if (running !== undefined) void conclude(running, { kind: 'thrown', value: thrown });
    else if (!(thrown instanceof ProcessExit)) console.error(thrown);
  });
onRequest(
  (request) => undisturbed(() => serve(request)),
  () => process.kill(process.pid, 'SIGKILL'),
);
tell({ type: 'ready', lines: { run: 'run {run}' } });
