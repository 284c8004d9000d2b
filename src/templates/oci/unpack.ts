/** Unpacks an image in a thread, which ends with its caller's patience. */
import { Worker } from 'node:worker_threads';
import { CoppiceError, type ErrorCode } from '../../contract/errors.ts';
import { throwIfAborted } from '../run.ts';
import type { Unpacked, UnpackJob } from './unpack-job.ts';

export type UnpackNews =
  | { readonly kind: 'stage'; readonly stage: string }
  | { readonly kind: 'done'; readonly result: Unpacked }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string };

/** MiB for the names of an image: some hundred bytes for each of the most that it may have. */
const MEMORY_MB = 1_536;

/** Errors: bad_request (what the image holds), aborted, internal. What was unpacked stays in the job's work folder. */
export async function unpackImage(
  job: UnpackJob,
  options: { readonly signal?: AbortSignal; readonly onStage?: (stage: string) => void } = {},
): Promise<Unpacked> {
  const { signal, onStage } = options;
  throwIfAborted(signal);
  const { promise, resolve, reject } = Promise.withResolvers<Unpacked>();
  const worker = new Worker(new URL('unpack-thread.ts', import.meta.url), {
    workerData: job,
    resourceLimits: { maxOldGenerationSizeMb: MEMORY_MB },
  });
  worker.on('message', (news: UnpackNews) => {
    if (news.kind === 'stage') onStage?.(news.stage);
    else if (news.kind === 'done') resolve(news.result);
    else reject(new CoppiceError(news.code, news.message));
  });
  worker.on('error', (error: NodeJS.ErrnoException) => {
    const small = error.code === 'ERR_WORKER_OUT_OF_MEMORY';
    reject(
      small
        ? new CoppiceError('bad_request', 'the image holds more names than are unpacked', { cause: error })
        : new CoppiceError('internal', `the image could not be unpacked: ${error.message}`, { cause: error }),
    );
  });
  worker.on('exit', () => {
    reject(
      new CoppiceError(signal?.aborted ? 'aborted' : 'internal', 'the image was not unpacked', {
        cause: signal?.reason,
      }),
    );
  });
  const onAbort = () => void worker.terminate();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await promise;
  } finally {
    signal?.removeEventListener('abort', onAbort);
    // Nothing of it writes any more when its folder is removed.
    await worker.terminate();
  }
}
