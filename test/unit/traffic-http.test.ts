/** HTTP through edge and node to a port of the sandbox: nothing added, lost, reordered or held back. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { connect, createServer as createTcpServer } from 'node:net';
import test from 'node:test';
import { guest, ID, type Rig, send, sendRaw, startRig, to, until } from '../helpers/traffic-rig.ts';

const echo = () =>
  createServer(async (req, res) => {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    res.setHeader('content-type', 'application/json');
    res.end(
      JSON.stringify({
        method: req.method,
        url: req.url,
        headers: req.headers,
        rawHeaders: req.rawHeaders,
        trailers: req.trailers,
        body: Buffer.concat(chunks).toString('latin1'),
      }),
    );
  });

/** Head of a raw request to a port of the sandbox. */
const raw = (rig: Rig, port: number, line: string, ...fields: string[]): Promise<string> =>
  sendRaw(
    rig.port,
    [
      `${line} HTTP/1.1`,
      'Host: localhost',
      `E2b-Sandbox-Id: ${ID}`,
      `E2b-Sandbox-Port: ${port}`,
      'Connection: close',
      ...fields,
    ].join('\r\n'),
  );

test('method, target, headers and body arrive as sent; ours cannot be forged', async (t) => {
  const rig = await startRig(t);
  const port = await guest(t, echo());
  const answer = await send(
    rig,
    {
      method: 'PATCH',
      path: '/a/../b//c?x=%2F&y=ä'.replace('ä', '%C3%A4'),
      headers: {
        ...to(port),
        Host: 'localhost:1234',
        'X-Twice': ['a', 'b'],
        'X-Coppice-Sandbox': 'other',
        'x-coppice-signed': '1',
        'X-Forwarded-For': '203.0.113.9',
        Connection: 'X-Drop, host, keep-alive',
        'X-Drop': 'gone',
        'Keep-Alive': 'timeout=5',
        'Proxy-Authorization': 'Basic eA==',
        TE: 'trailers, deflate',
      },
    },
    'héllo',
  );
  assert.equal(answer.status, 200);
  const got = JSON.parse(answer.body);
  assert.equal(got.method, 'PATCH');
  assert.equal(got.url, '/a/../b//c?x=%2F&y=%C3%A4');
  assert.equal(got.headers.host, 'localhost:1234');
  assert.equal(got.headers['x-twice'], 'a, b');
  assert.equal(got.rawHeaders.filter((name: string) => name === 'X-Twice').length, 2);
  assert.equal(got.headers['x-forwarded-for'], '203.0.113.9, 127.0.0.1');
  assert.equal(got.headers['x-forwarded-proto'], 'http');
  assert.equal(got.headers['x-forwarded-host'], 'localhost:1234');
  assert.equal(got.headers.te, 'trailers');
  for (const name of [
    'x-drop',
    'keep-alive',
    'proxy-authorization',
    'x-coppice-sandbox',
    'x-coppice-signed',
    'x-coppice-port',
  ])
    assert.equal(got.headers[name], undefined, name);
});

test('every method, with and without a body', async (t) => {
  const rig = await startRig(t);
  const port = await guest(t, echo());
  for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH', 'PROPFIND'])
    for (const body of [undefined, 'x', 'chunked']) {
      const headers = {
        ...to(port),
        ...(body === 'chunked' ? { 'Transfer-Encoding': 'chunked' } : body ? { 'Content-Length': body.length } : {}),
      };
      const answer = await send(rig, { method, headers }, body);
      assert.equal(answer.status, 200, method);
      if (method === 'HEAD') assert.equal(answer.body, '');
      else assert.equal(JSON.parse(answer.body).body, body ?? '', `${method} ${body}`);
    }
});

test('the answer arrives as sent: repeated headers, reason, no body for HEAD, 204 and 304, trailers', async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((req, res) => {
      res.sendDate = false;
      if (req.url === '/204') res.writeHead(204).end();
      else if (req.url === '/304') res.writeHead(304, { ETag: '"x"' }).end();
      else if (req.url === '/length')
        res.writeHead(200, { 'Content-Length': 5, Connection: 'X-Hop', 'X-Hop': '1' }).end('hello');
      else {
        res.writeHead(299, 'Quite Fine', ['Set-Cookie', 'a=1', 'Set-Cookie', 'b=2', 'Trailer', 'X-Sum', 'X-B', '\xe9']);
        res.write('one');
        res.addTrailers([
          ['X-Sum', '42'],
          ['Set-Cookie', 'c=3'],
        ] as never);
        res.end();
      }
    }),
  );
  const full = await send(rig, { headers: to(port) });
  assert.equal(full.status, 299);
  assert.deepEqual(full.headers['set-cookie'], ['a=1', 'b=2']);
  assert.equal(full.headers['x-b'], '\xe9');
  assert.equal(full.headers.date, undefined);
  assert.equal(full.body, 'one');
  assert.deepEqual({ ...full.trailers }, { 'x-sum': '42' });
  assert.match(await raw(rig, port, 'GET /', '', ''), /^HTTP\/1\.1 299 Quite Fine\r\n/);
  const length = await send(rig, { path: '/length', headers: to(port) });
  assert.equal(length.headers['content-length'], '5');
  assert.equal(length.headers['x-hop'], undefined);
  const head = await send(rig, { path: '/length', method: 'HEAD', headers: to(port) });
  assert.equal(head.headers['content-length'], '5');
  assert.equal((await send(rig, { path: '/204', headers: to(port) })).status, 204);
  const notModified = await send(rig, { path: '/304', headers: to(port) });
  assert.equal(notModified.status, 304);
  assert.equal(notModified.headers.etag, '"x"');
});

test('request trailers pass', async (t) => {
  const rig = await startRig(t);
  const port = await guest(t, echo());
  const answer = await send(
    rig,
    { method: 'POST', headers: { ...to(port), Trailer: 'X-Sum', 'Transfer-Encoding': 'chunked' } },
    (req) => {
      req.write('abc');
      req.addTrailers({ 'X-Sum': '7', Host: 'evil' });
      req.end();
    },
  );
  assert.deepEqual(JSON.parse(answer.body).trailers, { 'x-sum': '7' });
});

test('server-sent events arrive one by one, the head before the first', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const step = { next: Promise.withResolvers<void>() };
  const port = await guest(
    t,
    createServer(async (_req, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.flushHeaders();
      for (let i = 0; i < 5; i++) {
        await step.next.promise;
        step.next = Promise.withResolvers();
        res.write(`data: ${i}\n\n`);
      }
      res.end();
    }),
  );
  const req = request({ port: rig.port, host: '127.0.0.1', headers: to(port) }).end();
  const [res] = await once(req, 'response');
  assert.equal(res.headers['content-type'], 'text/event-stream');
  const iterator = res[Symbol.asyncIterator]();
  for (let i = 0; i < 5; i++) {
    step.next.resolve();
    assert.equal(String((await iterator.next()).value), `data: ${i}\n\n`);
  }
  assert.equal((await iterator.next()).done, true);
});

test('both directions at once: the sandbox answers while the body is still coming', { timeout: 10_000 }, async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((req, res) => {
      res.writeHead(200);
      res.flushHeaders();
      req.pipe(res);
    }),
  );
  const req = request({ method: 'POST', port: rig.port, host: '127.0.0.1', headers: to(port) });
  req.flushHeaders();
  const [res] = await once(req, 'response');
  const iterator = res[Symbol.asyncIterator]();
  for (const word of ['one', 'two', 'three']) {
    req.write(word);
    assert.equal(String((await iterator.next()).value), word);
  }
  req.end();
  assert.equal((await iterator.next()).done, true);
});

test('Expect: 100-continue and early hints come from the sandbox', async (t) => {
  const rig = await startRig(t);
  const server = createServer((_req, res) => {
    res.writeEarlyHints({ link: '</a.css>; rel=preload' });
    res.end('hinted');
  });
  let asked = 0;
  server.on('checkContinue', (req, res) => {
    asked++;
    if (req.url === '/no') {
      res.writeHead(417).end('no');
      return;
    }
    res.writeContinue();
    req.pipe(res);
  });
  const port = await guest(t, server);
  const expecting = { method: 'POST', headers: { ...to(port), Expect: '100-continue', 'Content-Length': 4 } };
  let continued = 0;
  const yes = await send(rig, expecting, (req) => {
    req.flushHeaders();
    req.on('continue', () => {
      continued++;
      req.end('body');
    });
  });
  assert.deepEqual([yes.status, yes.body, continued, asked], [200, 'body', 1, 1]);
  const no = await send(rig, { ...expecting, path: '/no' }, (req) => {
    req.flushHeaders();
    req.on('response', (res) => res.on('end', () => req.destroy()));
    req.on('continue', () => assert.fail('the sandbox did not say continue'));
  });
  assert.deepEqual([no.status, no.body], [417, 'no']);
  const hints: unknown[] = [];
  const hinted = await send(rig, { headers: to(port) }, (req) => {
    req.on('information', (info) => hints.push([info.statusCode, info.headers.link]));
    req.end();
  });
  assert.equal(hinted.body, 'hinted');
  assert.deepEqual(hints, [[103, '</a.css>; rel=preload']]);
});

test('HTTP/1.0 clients get a body that ends with the connection', async (t) => {
  const rig = await startRig(t);
  const port = await guest(
    t,
    createServer((_req, res) => {
      res.write('a');
      res.end('b');
    }),
  );
  const answer = await sendRaw(rig.port, `GET /sandbox/${ID}/${port}/ HTTP/1.0\r\n\r\n`);
  assert.match(answer, /^HTTP\/1\.1 200 OK\r\n/);
  assert.ok(!/transfer-encoding/i.test(answer));
  assert.ok(answer.endsWith('\r\n\r\nab'), answer);
});

test('a length named in Connection cannot change where the body ends', async (t) => {
  const rig = await startRig(t);
  const port = await guest(t, echo());
  const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n';
  const answer = await send(
    rig,
    {
      method: 'POST',
      headers: { ...to(port), Connection: 'content-length, transfer-encoding', 'Content-Length': smuggled.length },
    },
    smuggled,
  );
  assert.equal(JSON.parse(answer.body).body, smuggled);
  for (const fields of [
    ['Transfer-Encoding: gzip, chunked', '', '0\r\n\r\n'],
    ['Transfer-Encoding: chunked', 'Content-Length: 5', '', '0\r\n\r\n'],
    ['Content-Length: 1', 'Content-Length: 2', '', 'ab'],
    ['Transfer-Encoding: xchunked', '', '0\r\n\r\n'],
  ])
    assert.match(await raw(rig, port, 'POST /', ...fields), /^HTTP\/1\.1 (400|501) /, fields[0]);
});

test('hostile answers: broken heads, lying lengths, foreign codings, endless hints', { timeout: 15_000 }, async (t) => {
  const rig = await startRig(t);
  let reply = '';
  const port = await guest(
    t,
    createTcpServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.end(Buffer.from(reply, 'latin1')));
    }),
  );
  const lost = { sandboxId: ID, message: 'The server on the port broke off before it answered', port, code: 502 };
  for (reply of [
    '',
    'garbage\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
    'HTTP/1.1 200 O\x01K\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    `HTTP/1.1 200 OK\r\nX: ${'a'.repeat(100_000)}\r\n\r\n`,
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n',
    'HTTP/1.1 100 Continue\r\n\r\n'.repeat(500),
  ]) {
    const answer = await send(rig, { headers: to(port) });
    assert.equal(answer.status, 502, JSON.stringify(reply.slice(0, 60)));
    // Where the head was good, the node had begun to answer and could only cut: the edge then speaks.
    if (!reply.includes('zz')) assert.deepEqual(JSON.parse(answer.body), lost);
  }
  for (reply of [
    'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n',
  ])
    await assert.rejects(send(rig, { headers: to(port) }), { code: 'ECONNRESET' }, reply);
  reply = 'HTTP/1.1 200 OK\r\nTrailer: X\r\nContent-Length: 2\r\n\r\nok';
  assert.equal((await send(rig, { headers: to(port) })).body, 'ok');
  reply = `${'HTTP/1.1 103 Early\r\nLink: </a>; rel=x\r\n\r\n'.repeat(200)}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok`;
  let hints = 0;
  const hinted = await send(rig, { headers: to(port) }, (req) => {
    req.on('information', () => hints++);
    req.end();
  });
  assert.equal(hinted.body, 'ok');
  assert.ok(hints <= 16, `${hints} hints`);
});

test('a client that goes away reaches the sandbox at once, before and during the answer', {
  timeout: 10_000,
}, async (t) => {
  const rig = await startRig(t);
  let began = 0;
  let gone = 0;
  const port = await guest(
    t,
    createServer((req, res) => {
      began++;
      res.on('close', () => gone++);
      if (req.url === '/stream') res.write('x');
    }),
  );
  for (const [i, path] of ['/silent', '/stream'].entries()) {
    const socket = connect(rig.port, '127.0.0.1');
    socket.write(`GET /sandbox/${ID}/${port}${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    await until(() => began === i + 1, 'the request to arrive');
    socket.destroy();
    await until(() => gone === i + 1, `the sandbox to notice (${path})`, 1_000);
  }
  await until(() => rig.tracked.size === 0, 'nothing tracked');
});
