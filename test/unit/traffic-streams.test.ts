/** Large bodies and slow readers: every byte arrives, and memory stays bounded wherever the reader is slow. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { Readable } from 'node:stream';
import test from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { guest, ID, startRig, to, until } from '../helpers/traffic-rig.ts';

const MB = 1024 * 1024;
const TOTAL = 50 * MB;

/** `TOTAL` bytes made as they are asked for, hashed as they pass. */
function source(hash: ReturnType<typeof createHash>, made: { bytes: number }, total = TOTAL): Readable {
  return Readable.from(
    (async function* () {
      for (let i = 0; made.bytes < total; i++) {
        const chunk = Buffer.alloc(64 * 1024, i & 0xff);
        chunk.writeUInt32LE(i, 0);
        hash.update(chunk);
        made.bytes += chunk.length;
        yield chunk;
      }
    })(),
    { objectMode: false, highWaterMark: 64 * 1024 },
  );
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes really held outside kernel buffers. Array buffers are swept concurrently, so the least of a few looks counts. */
async function held(): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 5; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { external, heapUsed } = process.memoryUsage();
    least = Math.min(least, external + heapUsed);
  }
  return least;
}

/** Waits until no byte has been made for a while. */
async function stalled(made: { readonly bytes: number }): Promise<void> {
  let last = -1;
  let quiet = 0;
  await until(() => {
    quiet = made.bytes === last ? quiet + 1 : 0;
    last = made.bytes;
    return quiet > 40;
  }, 'the source to stall');
}

test('50 MB down and 50 MB up arrive whole', { timeout: 20_000 }, async (t) => {
  const rig = await startRig(t);
  const sent = createHash('sha256');
  const received = createHash('sha256');
  let uploaded = 0;
  const port = await guest(
    t,
    createServer((req, res) => {
      if (req.method === 'GET') source(sent, { bytes: 0 }).pipe(res);
      else {
        req.on('data', (chunk: Buffer) => {
          received.update(chunk);
          uploaded += chunk.length;
        });
        req.on('end', () => res.end(String(uploaded)));
      }
    }),
  );
  const down = createHash('sha256');
  const req = request({ port: rig.port, host: '127.0.0.1', headers: to(port) }).end();
  const [res] = await once(req, 'response');
  for await (const chunk of res) down.update(chunk);
  assert.equal(down.digest('hex'), sent.digest('hex'));

  const up = createHash('sha256');
  const put = request({ port: rig.port, host: '127.0.0.1', method: 'PUT', headers: to(port) });
  source(up, { bytes: 0 }).pipe(put);
  const [answer] = await once(put, 'response');
  let text = '';
  for await (const chunk of answer) text += chunk;
  assert.equal(text, String(TOTAL));
  assert.equal(received.digest('hex'), up.digest('hex'));
});

test('a client that does not read stops the sandbox from writing', { timeout: 20_000 }, async (t) => {
  const rig = await startRig(t);
  const made = { bytes: 0 };
  const hash = createHash('sha256');
  const port = await guest(
    t,
    createServer((_req, res) => {
      source(hash, made).pipe(res);
    }),
  );
  const before = await held();
  const req = request({ port: rig.port, host: '127.0.0.1', headers: to(port) }).end();
  const [res] = await once(req, 'response');
  await stalled(made);
  const growth = (await held()) - before;
  // Socket buffers of the kernel on three hops, and a few high-water marks of ours.
  assert.ok(made.bytes < 30 * MB, `${made.bytes / MB} MB were taken from the sandbox`);
  assert.ok(growth < 6 * MB, `${growth / MB} MB held`);
  let got = 0;
  for await (const chunk of res) got += chunk.length;
  assert.equal(got, TOTAL);
});

test('a sandbox that does not read stops the client from writing', { timeout: 20_000 }, async (t) => {
  const rig = await startRig(t);
  const read = Promise.withResolvers<void>();
  let got = 0;
  const port = await guest(
    t,
    createServer(async (req, res) => {
      await read.promise;
      req.on('data', (chunk: Buffer) => {
        got += chunk.length;
      });
      req.on('end', () => res.end('done'));
    }),
  );
  const made = { bytes: 0 };
  const before = await held();
  const put = request({ port: rig.port, host: '127.0.0.1', method: 'PUT', headers: to(port) });
  source(createHash('sha256'), made).pipe(put);
  await stalled(made);
  const growth = (await held()) - before;
  assert.ok(made.bytes < 30 * MB, `${made.bytes / MB} MB were taken from the client`);
  assert.ok(growth < 6 * MB, `${growth / MB} MB held`);
  read.resolve();
  const [answer] = await once(put, 'response');
  answer.resume();
  await once(answer, 'end');
  assert.equal(got, TOTAL);
});

test('a port that answers before the body has come is heard', { timeout: 20_000 }, async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((_req, res) => {
      res.writeHead(413, { Connection: 'close' }).end('too big');
    }),
  );
  const put = request({ port: rig.port, host: '127.0.0.1', method: 'PUT', headers: to(port) });
  put.on('error', () => {});
  const endless = source(createHash('sha256'), { bytes: 0 }, 1024 * TOTAL);
  endless.on('error', () => {});
  endless.pipe(put);
  const [answer] = await once(put, 'response');
  assert.equal(answer.statusCode, 413);
  put.destroy();
  endless.destroy();
  await until(() => rig.tracked.size === 0, `no exchange of ${ID} left`);
});
