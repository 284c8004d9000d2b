/**
 * Evaluation by V8's own REPL mode, which only its inspector offers: `let`, `const` and `class` may be declared again,
 * `await` stands at the top level, and the value is that of the last statement.
 */
import inspector from 'node:inspector';
import v8 from 'node:v8';
import { setUndisturbed } from './watchdog.ts';

export type Outcome = { readonly kind: 'value' | 'thrown'; readonly value: unknown };

type Reply = inspector.Runtime.EvaluateReturnType;

const GROUP = 'cell';

const session = new inspector.Session();
session.connect();

/** Cells that have not come to an end. One that is collected makes the inspector call this program during the collection. */
const unsettled = new Set<Promise<unknown>>();

/**
 * Computes as far as the cell does before it waits for something. To be called undisturbed: from the cell's beginning until
 * this returns it may be broken off, and neither returns then nor calls `settle`.
 */
export function evaluate(script: string, settle: (outcome: Outcome) => void): void {
  const promise = begin(script, settle);
  if (promise === undefined) return;
  unsettled.add(promise);
  const settled = (outcome: Outcome): void => {
    unsettled.delete(promise);
    settle(outcome);
  };
  promise.then(
    (result) => settled({ kind: 'value', value: (result as { readonly '.repl_result': unknown })['.repl_result'] }),
    (error: unknown) => settled({ kind: 'thrown', value: error }),
  );
}

/** Ends the computation that is going on, without a word to it. */
export function terminate(): void {
  session.post('Runtime.terminateExecution');
}

/**
 * A script of the REPL mode is an async function. The inspector only describes what comes of it, so its promise is caught
 * where it is made, the first of all and before the code runs. None: the script cannot be compiled, and `settle` has been told.
 */
function begin(script: string, settle: (outcome: Outcome) => void): Promise<unknown> | undefined {
  let promise: Promise<unknown> | undefined;
  const stop = v8.promiseHooks.onInit((made: Promise<unknown>) => {
    promise = made;
    stop();
    setUndisturbed(false);
  }) as () => void;
  const request = { expression: script, replMode: true, objectGroup: GROUP };
  session.post('Runtime.evaluate', request, (error: Error | null, reply?: object) => {
    session.post('Runtime.releaseObjectGroup', { objectGroup: GROUP });
    if (promise === undefined) settle({ kind: 'thrown', value: error ?? compileError(reply as Reply) });
  });
  setUndisturbed(true);
  if (promise === undefined) stop();
  return promise;
}

/** With the place in the cell, which an error of syntax does not say by itself. */
function compileError({ exceptionDetails }: Reply): Error {
  const [first = ''] = (exceptionDetails?.exception?.description ?? exceptionDetails?.text ?? '').split('\n');
  const error = new SyntaxError(first.replace(/^SyntaxError: /, ''));
  const { url = 'cell.js', lineNumber = 0, columnNumber = 0 } = exceptionDetails ?? {};
  error.stack = `${first}\n    at ${url || 'cell.js'}:${lineNumber + 1}:${columnNumber + 1}`;
  return error;
}
