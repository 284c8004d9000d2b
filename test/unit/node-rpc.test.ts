/** The unix socket of a node under whatever is called: errors, cancellation, limits, nodes that are away. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import test from 'node:test';
import fc from 'fast-check';
import { CoppiceError, ERRORS, type ErrorCode } from '../../src/contract/errors.ts';
import type { NodeApi } from '../../src/contract/node-api.ts';
import { connectNodeApi } from '../../src/contract/node-rpc/client.ts';
import { createNodeRpcServer, MAX_REQUEST_BYTES } from '../../src/contract/node-rpc/server.ts';
import { serve, view, wanted } from '../helpers/node-rpc.ts';

test('every error code arrives as itself, with message and details', async (t) => {
  let thrown: unknown;
  const seen: unknown[] = [];
  const { client } = await serve(
    t,
    {
      getSandbox: async () => {
        throw thrown;
      },
    },
    seen,
  );
  for (const code of Object.keys(ERRORS) as ErrorCode[]) {
    thrown = new CoppiceError(code, `Sandbox "é ✓" of ${code}\r\nX: y`, { details: { field: 'a', n: 1.5 } });
    await assert.rejects(client.getSandbox('t', 's'), (error: unknown) => {
      assert.ok(error instanceof CoppiceError);
      assert.equal(error.code, code);
      assert.equal(error.message, (thrown as CoppiceError).message);
      assert.deepEqual({ ...error.details }, { field: 'a', n: 1.5 });
      return true;
    });
  }
  thrown = new Error('password=hunter2');
  await assert.rejects(client.getSandbox('t', 's'), (error: unknown) => {
    assert.ok(error instanceof CoppiceError);
    assert.equal(error.code, 'internal');
    assert.ok(!error.message.includes('hunter2'));
    return true;
  });
  assert.deepEqual(seen.at(-1), ['getSandbox', thrown]);
  const circular: Record<string, unknown> = {};
  circular.self = circular;
  thrown = new CoppiceError('capacity', 'x'.repeat(1_000_000), { details: circular });
  await assert.rejects(client.getSandbox('t', 's'), { code: 'capacity' });
});

test('a cancelled call aborts the signal of the node, and says aborted', async (t) => {
  const aborted = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const { client } = await serve(t, {
    createSandbox: (_request, signal) =>
      new Promise((_, reject) => {
        signal?.addEventListener('abort', () => {
          aborted.resolve();
          reject(new CoppiceError('aborted', 'stopped'));
        });
        begun.resolve();
      }),
  });
  const controller = new AbortController();
  const call = client.createSandbox(wanted(), controller.signal);
  await begun.promise;
  controller.abort();
  await assert.rejects(call, { name: 'CoppiceError', code: 'aborted' });
  await aborted.promise;
  await assert.rejects(client.createSandbox(wanted(), AbortSignal.abort()), { code: 'aborted' });
});

test('a time limit ends a call that the node never answers', async (t) => {
  const over = Promise.withResolvers<never>();
  t.after(() => over.reject(new Error('over')));
  const { path } = await serve(t, { status: () => over.promise });
  const hasty = connectNodeApi(path, { timeoutMs: 50 });
  t.after(() => hasty.close());
  await assert.rejects(hasty.status(), { code: 'aborted' });
});

test('a node that is away is unavailable, and is found again when it is back', async (t) => {
  const api: Partial<NodeApi> = { killSandbox: async () => {} };
  const { client, path, server, closeAllConnections } = await serve(t, api);
  await client.killSandbox('t', 's');
  closeAllConnections();
  await new Promise((done) => server.close(done));
  await assert.rejects(client.killSandbox('t', 's'), { name: 'CoppiceError', code: 'unavailable' });
  const again = createNodeRpcServer({ ...({} as NodeApi), killSandbox: async () => {} });
  again.server.listen(path);
  await once(again.server, 'listening');
  t.after(() => {
    again.closeAllConnections();
    again.server.close();
  });
  await client.killSandbox('t', 's');
});

test('a node that dies in the middle of a call is unavailable', async (t) => {
  const begun = Promise.withResolvers<void>();
  const over = Promise.withResolvers<void>();
  t.after(() => over.resolve());
  const { client, closeAllConnections } = await serve(t, {
    killSandbox: () => {
      begun.resolve();
      return over.promise;
    },
  });
  const call = client.killSandbox('t', 's');
  await begun.promise;
  closeAllConnections();
  await assert.rejects(call, { name: 'CoppiceError', code: 'unavailable' });
});

test('text that UTF-8 cannot carry is refused, not altered', async (t) => {
  const { client } = await serve(t, {});
  await assert.rejects(client.createSandbox({ ...wanted(), envVars: { a: '\ud800' } }), { code: 'bad_request' });
  await assert.rejects(client.createSandbox({ ...wanted(), metadata: { '\udc00': 'x' } }), { code: 'bad_request' });
});

test('messages beyond the limit are refused on both sides', async (t) => {
  const { client, path } = await serve(t, {});
  const big = 'x'.repeat(MAX_REQUEST_BYTES);
  await assert.rejects(client.createSandbox({ ...wanted(), envVars: { big } }), { code: 'payload_too_large' });
  const socket = connect(path);
  await once(socket, 'connect');
  const length = Buffer.alloc(4);
  length.writeUInt32LE(MAX_REQUEST_BYTES + 100);
  socket.write(length);
  await once(socket, 'close');
});

test('many calls at once each get their own answer', async (t) => {
  const { client } = await serve(t, { getSandbox: async (_team, sandboxID) => ({ ...view, sandboxID }) });
  const ids = Array.from({ length: 200 }, (_, i) => `i${i}`);
  const got = await Promise.all(ids.map((id) => client.getSandbox('t', id)));
  assert.deepEqual(
    got.map(({ sandboxID }) => sandboxID),
    ids,
  );
});

test('bytes that are no frames end their connection and no other', async (t) => {
  const { client, path } = await serve(t, { killSandbox: async () => {} });
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 64 }), async (bytes) => {
      const socket = connect(path);
      socket.on('error', () => {});
      socket.resume();
      await once(socket, 'connect');
      socket.end(bytes);
      await once(socket, 'close');
      await client.killSandbox('t', 's');
    }),
    { numRuns: 100 },
  );
});

test('after close a call is refused', async (t) => {
  const { client } = await serve(t, {});
  client.close();
  await assert.rejects(client.status(), { code: 'unavailable' });
});
