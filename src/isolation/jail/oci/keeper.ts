/**
 * The thread whose mount namespace is private: whatever it mounts for a jail is seen by that jail and by nobody else, is in
 * no table of the host's, and is gone with this process. This is the main thread's side of it.
 */
import { Worker } from 'node:worker_threads';
import { CoppiceError } from '../../../contract/errors.ts';
import type { Answer, JobName, Jobs, KeeperData, Question } from './keeper-jobs.ts';

export interface Keeper {
  /** With the reason, from whichever part failed; start_failed, unless the asker is to blame. Not cancellable: a job half done is undone by itself. */
  ask<Name extends JobName>(job: Name, ask: Jobs[Name]['ask']): Promise<Jobs[Name]['answer']>;
}

/** The thread starts with the first job, and again with the next after it has died. */
export function createKeeper(data: KeeperData): Keeper {
  const waiting = new Map<number, PromiseWithResolvers<Jobs[JobName]['answer']>>();
  let worker: Worker | undefined;
  let next = 1;

  const start = (): Worker => {
    const started = new Worker(new URL('./keeper-thread.ts', import.meta.url), { workerData: data });
    let lost = false;
    const lose = (reason: string): void => {
      // An error is followed by the exit, by when others may be waiting for the next thread.
      if (lost) return;
      lost = true;
      if (worker === started) worker = undefined;
      for (const waiter of waiting.values())
        waiter.reject(new CoppiceError('start_failed', `the thread that makes jails ended: ${reason}`));
      waiting.clear();
    };
    started.on('message', (answer: Answer) => {
      const waiter = waiting.get(answer.number);
      waiting.delete(answer.number);
      if (waiting.size === 0) started.unref();
      if (answer.ok) waiter?.resolve(answer.answer);
      else waiter?.reject(new CoppiceError(answer.code, answer.message));
    });
    started.on('error', (error) => lose(String(error)));
    started.on('exit', (code) => lose(`exit code ${code}`));
    return started;
  };

  return {
    ask<Name extends JobName>(job: Name, ask: Jobs[Name]['ask']) {
      worker ??= start();
      // It keeps the process alive while it works and not a moment longer.
      worker.ref();
      const question: Question<Name> = { number: next++, job, ask };
      const waiter = Promise.withResolvers<Jobs[JobName]['answer']>();
      waiting.set(question.number, waiter);
      worker.postMessage(question);
      return waiter.promise as Promise<Jobs[Name]['answer']>;
    },
  };
}
