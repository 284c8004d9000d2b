/** Unpacks one image, away from the thread that sandboxes wait for: it waits for the disk, and its memory is bounded. */
import { parentPort, workerData } from 'node:worker_threads';
import { isCoppiceError } from '../../contract/errors.ts';
import type { UnpackNews } from './unpack.ts';
import { type UnpackJob, unpackHere } from './unpack-job.ts';

const tell = (news: UnpackNews): void => parentPort!.postMessage(news);

try {
  const result = await unpackHere(workerData as UnpackJob, (stage) => tell({ kind: 'stage', stage }));
  tell({ kind: 'done', result });
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  tell({ kind: 'failed', code: isCoppiceError(error) ? error.code : 'internal', message });
}
