/** The check that stands behind every other test of the REST edge notices what it is there to notice. */
import assert from 'node:assert/strict';
import { createServer, type OutgoingHttpHeaders } from 'node:http';
import test from 'node:test';
import { checkingAnswers } from '../helpers/answer-check.ts';

const JSON_TYPE = { 'content-type': 'application/json' };
const ANY_ORIGIN = { 'access-control-allow-origin': '*' };
const NOT_FOUND = '{"code":404,"message":"no"}';
const SNAPSHOT = {
  snapshotID: 'a:b',
  names: [],
  buildID: 'b',
  parentID: 'p',
  sourceID: 's',
  memory: true,
  ownBytes: 1,
  sharedBytes: 2,
  createdAt: '2026-01-01T00:00:00.000Z',
};

test('undeclared statuses, shapes and headers are found, and good answers are not', async (t) => {
  let next: { status: number; headers: OutgoingHttpHeaders; text: string } | undefined;
  const { handle, faults } = checkingAnswers((_req, res) => {
    const { status, headers, text } = next!;
    res.writeHead(status, headers);
    res.end(text);
  });
  const server = createServer(handle);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const { port } = server.address() as { port: number };
  const table: [fault: RegExp | undefined, ask: string, status: number, headers: OutgoingHttpHeaders, body: unknown][] =
    [
      [undefined, 'GET /sandboxes/x', 404, JSON_TYPE, NOT_FOUND],
      [undefined, 'GET /nothing', 404, JSON_TYPE, NOT_FOUND],
      [undefined, 'DELETE /sandboxes/x', 204, {}, ''],
      [undefined, 'GET /snapshots', 200, JSON_TYPE, [SNAPSHOT]],
      [undefined, 'GET /snapshots?limit=1', 200, { ...JSON_TYPE, 'x-next-token': 'abc' }, [SNAPSHOT]],
      [undefined, 'GET /v2/sandboxes', 200, { ...JSON_TYPE, 'x-total-running': '0' }, []],
      [undefined, 'GET /sandboxes', 200, JSON_TYPE, []],
      [/does not|unrecognized/i, 'GET /snapshots', 200, JSON_TYPE, [{ ...SNAPSHOT, more: 1 }]],
      [/ownBytes/, 'GET /snapshots', 200, JSON_TYPE, [{ ...SNAPSHOT, ownBytes: '1' }]],
      [/sourceID/, 'GET /snapshots', 200, JSON_TYPE, [{ ...SNAPSHOT, sourceID: undefined }]],
      [/no such answer/, 'GET /snapshots', 201, JSON_TYPE, [SNAPSHOT]],
      [/no such answer/, 'DELETE /sandboxes/x', 200, JSON_TYPE, {}],
      [/no such answer/, 'DELETE /sandboxes/x', 409, JSON_TYPE, '{"code":409,"message":"no"}'],
      [/no such answer/, 'GET /nothing', 200, JSON_TYPE, {}],
      [/a body where none belongs/, 'DELETE /sandboxes/x', 204, JSON_TYPE, ''],
      [/text\/html/, 'GET /sandboxes/x', 404, { 'content-type': 'text/html' }, '<p>'],
      [/another code/, 'GET /sandboxes/x', 404, JSON_TYPE, '{"code":403,"message":"no"}'],
      [/X-Next-Token/, 'GET /snapshots', 200, { ...JSON_TYPE, 'x-next-token': '' }, [SNAPSHOT]],
      [/not full/, 'GET /snapshots', 200, { ...JSON_TYPE, 'x-next-token': 'abc' }, [SNAPSHOT]],
      [/not full/, 'GET /snapshots?limit=1', 200, { ...JSON_TYPE, 'x-next-token': 'abc' }, []],
      [/without pages/, 'GET /sandboxes?limit=1', 200, { ...JSON_TYPE, 'x-next-token': 'abc' }, []],
      [/X-Total-Running/, 'GET /v2/sandboxes', 200, JSON_TYPE, []],
      [/Server-Timing/, 'POST /sandboxes/x/pause', 204, {}, ''],
      [/Server-Timing where/, 'GET /sandboxes', 200, { ...JSON_TYPE, 'server-timing': 'x;dur=1' }, []],
      [/Retry-After/, 'GET /sandboxes/x', 503, { ...JSON_TYPE, 'retry-after': '1' }, '{"code":503,"message":"no"}'],
      [/no Allow/, 'PUT /nothing', 405, JSON_TYPE, '{"code":405,"message":"no"}'],
    ];
  for (const [fault, ask, status, headers, body] of table) {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    next = { status, headers: { ...ANY_ORIGIN, ...headers }, text };
    const before = faults.length;
    const [method, path] = ask.split(' ') as [string, string];
    await (await fetch(`http://127.0.0.1:${port}${path}`, { method })).text();
    const found = faults.slice(before);
    if (fault === undefined) assert.deepEqual(found, [], ask);
    else assert.match(found.join('\n').replace(/\s+/g, ' '), fault, ask);
  }
  next = { status: 404, headers: JSON_TYPE, text: NOT_FOUND };
  const before = faults.length;
  await (await fetch(`http://127.0.0.1:${port}/x`)).text();
  assert.equal(faults.length, before + 1, 'an origin must be allowed');
});
