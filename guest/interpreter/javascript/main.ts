/**
 * JavaScript and TypeScript as a runtime of the code interpreter (coppice_bridge/runtime.py).
 *
 *     node main.js [--typescript] [--node=PATH]      PATH: what user code has as process.execPath
 */
import { types } from 'node:util';
import { endCutEvent, onRequest, payload, tell } from './channel.ts';
import { type Bundle, bundleOf } from './display.ts';
import { evaluate, INTERRUPTED, type Outcome, terminate } from './evaluate.ts';
import { tellInterrupted, tellThrown } from './failure.ts';
import { ProcessExit, setGlobals } from './globals.ts';
import { replaceMathRandom, reseed } from './random.ts';
import { asScript, stripTypes } from './source.ts';
import { replaceStreams } from './streams.ts';
import { noticeInterrupt, startWatchdog, undisturbed } from './watchdog.ts';

const typescript = process.argv.includes('--typescript');
const nodeForChildren = process.argv.find((arg) => arg.startsWith('--node='))?.slice('--node='.length);

type Variables = readonly (readonly [string, string | undefined])[];

let cells = 0;
/** Ends the run that goes on, as far as it has come. */
let settle: ((outcome: Outcome) => void) | undefined;

function run([count = '0', ...strings]: string[]): void {
  const variables = strings.slice(0, Number(count)).map(pairOf);
  const before = variables.map(([name]) => [name, process.env[name]] as const);
  assign(variables);
  cells += 1;
  outcomeOf(strings.slice(variables.length).join('\0')).then((outcome) => undisturbed(() => finish(outcome, before)));
}

function finish(outcome: Outcome, before: Variables): void {
  settle = undefined;
  noticeInterrupt();
  assign(before);
  tellOutcome(outcome);
  tell({ type: 'done' });
}

/** Begins at once, and not in a microtask: evaluate needs that. */
function outcomeOf(code: string): Promise<Outcome> {
  const { promise, resolve } = Promise.withResolvers<Outcome>();
  let atOnce = false;
  const settleThis = (outcome: Outcome): void => {
    atOnce = true;
    resolve(outcome);
  };
  settle = settleThis;
  try {
    const script = asScript(typescript ? stripTypes(code) : code);
    evaluate(`${script}\n//# sourceURL=cell-${cells}.js`, (outcome) => {
      if (outcome.kind === 'value' && outcome.value !== undefined) shown(outcome.value).then(resolve);
      else settleThis(outcome);
    });
  } catch (error) {
    settleThis({ kind: 'thrown', value: error });
  }
  if (!atOnce) startWatchdog(terminate);
  return promise;
}

/** The bundle of a value; of a promise, that of what becomes of it. */
async function shown(value: unknown): Promise<Outcome> {
  try {
    const last: unknown = types.isPromise(value) ? await value : value;
    return { kind: 'value', value: last === undefined ? undefined : await bundleOf(last) };
  } catch (error) {
    return { kind: 'thrown', value: error };
  }
}

function tellOutcome(outcome: Outcome): void {
  if (outcome.kind === 'interrupted') {
    endCutEvent();
    tellInterrupted();
  } else if (outcome.kind === 'thrown') {
    tellThrown(outcome.value);
  } else if (outcome.value !== undefined) {
    tell({ type: 'result', main: true, data: outcome.value as Bundle });
  }
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

function serve(request: string): void {
  const strings = payload();
  if (request === 'run') {
    run(strings);
    return;
  }
  try {
    if (request === 'env') assign(strings.map(pairOf));
    else if (request === 'reseed') reseed(Buffer.from(strings[1]!, 'hex'));
  } catch (error) {
    tellThrown(error);
  }
  tell({ type: 'done' });
}

replaceStreams();
replaceMathRandom();
setGlobals(nodeForChildren);
process.on('SIGINT', () => {
  noticeInterrupt();
  settle?.(INTERRUPTED);
});
// Nothing that user code throws ends this process. Between runs there is nobody to tell.
for (const event of ['uncaughtException', 'unhandledRejection'] as const)
  process.on(event, (thrown: unknown) => {
    if (settle === undefined && !(thrown instanceof ProcessExit)) console.error(thrown);
    settle?.({ kind: 'thrown', value: thrown });
  });
onRequest(
  (request) => undisturbed(() => serve(request)),
  () => process.kill(process.pid, 'SIGKILL'),
);
tell({ type: 'ready' });
